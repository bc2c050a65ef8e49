from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from costguard import lang
from costguard.cli.main import main
from costguard.cli.market import job_tokens
from costguard.cli.text import width
from costguard.store.database import Store
from costguard.store.drilled import Proof, keep_proof
from costguard.store.migrate import upgrade
from tests.remote.ssh_server import Machine, public_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORD = "pl4nted-passw0rd"
ROW = json.dumps({"instruction": "问题" * 9, "input": "", "output": "回答" * 9})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with two machines with SSH, one of them up; and no account beside them."""
    machine = Machine(tmp_path / "box")
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    (place / "box1.password").touch(0o600)
    (place / "box1.password").write_text(WORD)
    (place / "config.toml").write_text(
        f"""[providers.ssh.box1]
ssh = "ssh -p {machine.port} me@127.0.0.1"
password_file = "box1.password"
price_yuan_per_hour = 20
gpu = "A10"
[providers.ssh.box2]
ssh = "ssh -p {machine.port} me@127.0.0.1"
host_key = "{public_line(machine.host_key)}"
price_yuan_per_hour = 15
gpu = "RTX 3090"
pause_command = "true"
[providers.autodl]
"""
    )
    monkeypatch.setenv("COSTGUARD_HOME", str(place))
    yield place
    machine.close()
    lang.select("en")


def document(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """What a command prints with --json."""
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("home")
def test_offers_are_sorted_by_the_hour(capsys: pytest.CaptureFixture[str]) -> None:
    """Of every account; the one that does not answer is named with why."""
    found = document(capsys, "offers")
    assert found["schema"] == "costguard.offers/1"
    assert [row["provider"] for row in found["rows"]] == ["ssh.box2", "ssh.box1"]
    assert found["rows"][0]["price_yuan_per_hour"] == "15.00"
    assert found["rows"][0]["finish_yuan"] is None
    assert found["failed"][0]["provider"] == "autodl"
    assert document(capsys, "offers", "--gpus", "2")["rows"] == []


@pytest.mark.usefixtures("home")
def test_for_a_job_they_are_sorted_by_what_finishing_costs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The dearer hour is the cheaper finish where the card is that much faster."""
    rows = document(capsys, "offers", "--tokens", "5000000")["rows"]
    assert [row["provider"] for row in rows] == ["ssh.box1", "ssh.box2"]
    assert float(rows[0]["finish_yuan"]) < float(rows[1]["finish_yuan"])
    assert rows[0]["duration_s"] < rows[1]["duration_s"]


def test_a_jobs_tokens_count_stages_and_epochs(home: Path) -> None:
    """By the trainer's own estimate; a part of the samples is that part of the tokens."""
    (home / "d.jsonl").write_text("\n".join([ROW] * 10), encoding="utf-8")
    job = home / "job.toml"
    text = """[job]
name = "j"
[instance]
provider = "local"
[training]
model_name_or_path = "Qwen/Qwen2.5-7B-Instruct"
dataset = "d.jsonl"
num_train_epochs = {epochs}
[[stages]]
max_samples = {samples}
"""
    job.write_text(text.format(epochs=2, samples='"all"'), encoding="utf-8")
    whole = job_tokens(job)
    assert whole > 0
    job.write_text(text.format(epochs=1, samples=5), encoding="utf-8")
    assert abs(job_tokens(job) * 4 - whole) <= 4


@pytest.mark.usefixtures("home")
def test_doctor_shows_what_a_host_key_is_to_be_compared_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its fingerprint and the line for the config; a pinned one is held against it."""
    found = document(capsys, "doctor", "--provider", "ssh.box1", code=1)
    assert (found["schema"], found["is_fine"]) == ("costguard.doctor/1", False)
    (account,) = found["accounts"]
    by_name = {each["what"]: each for each in account["findings"]}
    assert by_name["host key"]["is_fine"] is None
    assert "SHA256:" in by_name["host key"]["text"]
    assert 'host_key = "ssh-' in by_name["host key"]["text"]
    assert by_name["stop"]["is_fine"] is False
    found = document(capsys, "doctor", "--provider", "ssh.box2", code=1)
    by_name = {each["what"]: each for each in found["accounts"][0]["findings"]}
    assert by_name["host key"]["is_fine"] is True
    assert by_name["stop"]["is_fine"] is True


def test_doctor_finds_a_changed_host_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it shows is not what the config has."""
    config = home / "config.toml"
    wrong = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    lines = config.read_text().splitlines()
    kept = [f'host_key = "{wrong}"' if line.startswith("host_key") else line for line in lines]
    config.write_text("\n".join(kept))
    found = document(capsys, "doctor", "--provider", "ssh.box2", code=1)
    by_name = {each["what"]: each for each in found["accounts"][0]["findings"]}
    assert by_name["host key"]["is_fine"] is False


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("arguments", [["offers"], ["offers", "--tokens", "9000"], ["doctor"]])
def test_what_a_person_sees_fits_80_columns_and_shows_no_secret(
    capsys: pytest.CaptureFixture[str], language: str, arguments: list[str]
) -> None:
    """In both languages."""
    main(["--lang", language, *arguments])
    printed = capsys.readouterr()
    assert all(width(line) <= 80 for line in printed.out.splitlines())
    assert WORD not in printed.out + printed.err
    assert "ssh.box1" in printed.out


@pytest.mark.usefixtures("home")
def test_a_platform_without_images_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """With its own word for it."""
    found = document(capsys, "images", "--provider", "ssh.box1", "qwen", code=7)
    assert found["error"]["code"] == "no_images"


def test_doctor_tells_what_a_drill_has_shown_of_a_timer(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until then it names the command; the platform may be out of reach all the while."""
    (home / "config.toml").write_text('[providers.compshare]\nbase_url = "http://127.0.0.1:9"\n')
    for key in ("public_key", "private_key"):
        (home / f"compshare.{key}").touch(0o600)
        (home / f"compshare.{key}").write_text(WORD)

    def timer() -> Any:
        (account,) = document(capsys, "doctor", code=1)["accounts"]
        return next(each for each in account["findings"] if each["what"] == "timer")

    assert timer()["is_fine"] is None
    assert timer()["text"].endswith("costguard doctor --provider compshare --drill")
    upgrade(home / "costguard.db")
    store = Store(home / "costguard.db")
    with store.write() as session:
        keep_proof(session, "compshare", Proof(1_795_565_904_000, 812))
    store.close()
    assert timer()["is_fine"] is True
    assert "2026-11-25" in timer()["text"]


def test_the_platform_on_this_machine_is_not_unfit_because_it_is_not_up_yet(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first job starts it."""
    (home / "config.toml").write_text("[providers.local]\n")
    (account,) = document(capsys, "doctor")["accounts"]
    assert account["findings"][0]["is_fine"] is None
