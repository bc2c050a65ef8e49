from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from costguard import lang, paths
from costguard.cli.main import main
from costguard.cli.text import width
from costguard.daemon import estimate
from costguard.daemon.reuse import Paused
from costguard.store.database import Store
from costguard.store.migrate import upgrade
from tests.report.books import Books
from tests.report.test_observed import of_model

if TYPE_CHECKING:
    from pathlib import Path

SHORT, LONG = "问" * 20, "答" * 60
CONFIG = """
[providers.ssh.box1]
ssh = "ssh -p 22 me@127.0.0.1"
password_file = "box.password"
price_yuan_per_hour = 15
gpu = "RTX 3090"
[providers.ssh.box2]
ssh = "ssh -p 22 me@127.0.0.1"
password_file = "box.password"
price_yuan_per_hour = 40
gpu = "A100"
[providers.ssh.box3]
ssh = "ssh -p 22 me@127.0.0.1"
password_file = "box.password"
price_yuan_per_hour = 20
gpu = "Strange 9"
[providers.autodl]
"""
JOB = """[job]
name = "kefu"
budget_yuan = {yuan}
[instance]
provider = "ssh.box1"
[training]
model_name_or_path = "Qwen/Qwen2.5-7B-Instruct"
dataset = "d.jsonl"
quantization_bit = 4
per_device_train_batch_size = 4
gradient_accumulation_steps = 2
num_train_epochs = 2
{more}
[[stages]]
max_samples = 40
[[stages]]
max_samples = "all"
"""


@pytest.fixture
def home(tmp_path: Path, home: Path) -> Path:
    """A home with three machines of whose speeds two are known, a dead account, and a data set."""
    (home / "box.password").touch(0o600)
    (home / "box.password").write_text("pl4nted")
    (home / "config.toml").write_text(CONFIG)
    rows = [
        json.dumps({"instruction": f"{n} {SHORT}", "input": "", "output": (SHORT, LONG)[n % 2]})
        for n in range(200)
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return home


def job_file(home: Path, yuan: str = "80", more: str = "") -> str:
    """The job file, with that budget and more flags."""
    path = home.parent / "job.toml"
    path.write_text(JOB.format(yuan=yuan, more=more), encoding="utf-8")
    return str(path)


def estimated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The document of `estimate`."""
    assert main(["estimate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_evaluations_that_the_job_file_plans_have_a_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty held-out samples, two and a half steps' worth, judged at the end of both epochs."""
    (plan, *_) = estimated(capsys, job_file(home, more="val_size = 0.1"))["plans"]
    judging = [part for part in plan["parts"] if part["what"] == "evaluate"]
    assert [part["stage"] for part in judging] == [0, 1]
    step_s = plan["step_ms"][1] / 1_000
    assert judging[1]["time_s"] == pytest.approx(2 * 2.5 * step_s, abs=1)
    assert judging[1]["time_low_s"] < judging[1]["time_s"] < judging[1]["time_high_s"]
    assert main(["estimate", job_file(home, more="val_size = 0.1")]) == 0
    assert "evaluate +" in capsys.readouterr().out


def test_the_document_tells_work_plans_and_what_would_save(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens, steps, time and yuan with a range for every part, by card, with its source."""
    found = estimated(capsys, job_file(home))
    assert found["schema"] == "costguard.estimate/1"
    assert found["data"]["samples"] == 200
    assert found["data"]["tokens"] > 200 * 20
    first, second = found["stages"]
    assert (first["samples"], first["steps"], first["epochs"]) == (40, 10, "2")
    assert (second["samples"], second["steps"]) == (200, 50)
    assert second["tokens"] == 2 * found["data"]["tokens"]
    plans = {plan["provider"]: plan for plan in found["plans"]}
    assert set(plans) == {"ssh.box1", "ssh.box2"}
    assert [plans["ssh.box1"]["is_asked_for"], plans["ssh.box2"]["is_asked_for"]] == [True, False]
    assert plans["ssh.box1"]["speed_kind"] == "calculated"
    assert plans["ssh.box1"]["step_ms"][0] > plans["ssh.box2"]["step_ms"][0] > 0
    for plan in plans.values():
        assert [(part["what"], part["stage"]) for part in plan["parts"]] == [
            *[("setup", None), ("download", None)],
            *[("load", 0), ("train", 0), ("save", 0)],
            *[("load", 1), ("train", 1), ("save", 1)],
            *[("home", None), ("stop", None)],
        ]
        parts = sum(Decimal(part["cost_yuan"]) for part in plan["parts"])
        assert parts == Decimal(plan["cost_yuan"])
        assert plan["time_low_s"] < plan["time_s"] < plan["time_high_s"]
        assert (plan["fit"], plan["bites_at"]) == ("fits", None)
    assert found["plans"][found["cheapest"]]["provider"] == "ssh.box1"
    assert found["unknown"] == [{"provider": "ssh.box3", "gpu": "Strange 9"}]
    assert [each["provider"] for each in found["failed"]] == ["autodl"]
    saved = {each["what"]: each for each in found["savings"]}
    assert set(saved) == {"packing", "prequantised_copy", "kept_disk"}
    assert all(Decimal(each["saves_yuan"]) > 0 for each in saved.values())
    assert saved["packing"]["is_in_figures"] is True


@pytest.mark.parametrize(("has_model", "takes"), [(True, True), (False, False)])
def test_a_paused_instance_that_the_job_would_go_on_on_is_named(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_model: bool,
    takes: bool,
) -> None:
    """Where the home's books know one that is taken unasked; another one is not this job's."""
    upgrade(home / "costguard.db")
    paused = Paused("first", "i-7", has_model=has_model)
    monkeypatch.setattr(estimate, "paused_instance", lambda session, spec: paused)
    told = {"instance": "i-7", "paused_since": "first"} if takes else None
    assert estimated(capsys, job_file(home))["reuse"] == told
    assert main(["estimate", job_file(home)]) == 0
    assert ("i-7, paused since first: no set-up" in capsys.readouterr().out) is takes


def test_a_small_budget_says_where_it_ends(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--budget goes before the file, and nothing fits: said, with the part or the step."""
    found = estimated(capsys, job_file(home, more="max_steps = 100000"), "--budget", "20")
    assert found["cheapest"] is None
    assert {plan["fit"] for plan in found["plans"]} == {"short"}
    bite = found["plans"][0]["bites_at"]
    assert (bite["what"], bite["stage"]) == ("train", 0)
    assert 0 < bite["step"] < 100_000
    assert found["plans"][0]["reaches_s"] > 0


def test_our_own_runs_go_before_any_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Speed and overheads that this home has seen, named as measured here."""
    upgrade(paths.database_path())
    store = Store(paths.database_path())
    with store.write() as session:
        books = of_model(Books.open(session), provider="ssh.box1")
        books.tell("progress", 1, step=1, session_tokens_per_s=500)
        books.run_to(books.interval(), 40, phase="setup")
    store.close()
    found = estimated(capsys, job_file(home))
    plan = next(plan for plan in found["plans"] if plan["provider"] == "ssh.box1")
    assert (plan["tokens_per_s"], plan["speed_kind"]) == (500, "measured_here")
    assert plan["measured_parts"] == ["setup"]
    setup = plan["parts"][0]
    assert [setup[key] for key in ("time_low_s", "time_s", "time_high_s")] == [20, 40, 80]


def test_what_is_held_out_is_not_trained_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A share, or a number of samples."""
    assert estimated(capsys, job_file(home, more="val_size = 0.1"))["stages"][1]["samples"] == 180
    assert estimated(capsys, job_file(home, more="val_size = 50"))["stages"][1]["samples"] == 150


def test_of_a_command_of_ones_own_nobody_knows(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said, with what can be done instead."""
    path = home.parent / "own.toml"
    path.write_text(
        '[job]\nname = "x"\nbudget_yuan = 1\n[instance]\nprovider = "ssh.box1"\n'
        '[training]\nengine = "command"\ncommand = ["true"]\n'
    )
    assert main(["estimate", str(path)]) == 2
    assert "status then says" in capsys.readouterr().err


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("yuan", ["80", "1"])
def test_what_a_person_sees_fits_80_columns(
    home: Path, capsys: pytest.CaptureFixture[str], language: str, yuan: str
) -> None:
    """In both languages, whether it fits or not."""
    assert main(["--lang", language, "estimate", job_file(home, yuan)]) == 0
    printed = capsys.readouterr().out
    assert all(width(line) <= 80 for line in printed.splitlines())
    assert "ssh.box1" in printed
    fits = {"en": "cheapest that fits", "zh": "内够用的"}[language]
    assert (fits in printed) is (yuan == "80")
    lang.select("en")
