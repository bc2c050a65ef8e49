"""TensorBoard and SwanLab: shown what the log has, and never in the way of a run."""

from __future__ import annotations

import json
import signal
import sys
import time
import types
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from trainer import boards
from trainer.boards import Boards, SwanLabOptions
from trainer.exits import FINISHED, SAVED_ON_REQUEST, USAGE
from trainer.flags import parse_train
from trainer.options import RunOptions
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.config import Config

STAND_IN = """
import json, os, signal, sys

def _tell(*what):
    with open(os.environ["SWANLAB_TOLD"], "a") as stream:
        stream.write(json.dumps(what) + "\\n")

def _fail(where):
    if os.environ.get("SWANLAB_FAILS") == where:
        raise SystemExit(f"{where} failed") if where == "init" else OSError(f"{where} failed")

def init(**given):
    _fail("init")
    signal.signal(signal.SIGINT, lambda *_: sys.exit("its own"))  # as 0.10 does
    _tell("init", given)

def log(numbers, step):
    _fail("log")
    _tell("log", step, numbers)

def finish(**given):
    _fail("finish")
    _tell("finish", given)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """A stand-in for the package swanlab on the path; what it was told so far."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "swanlab.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("SWANLAB_TOLD", str(tmp_path / "told"))
    monkeypatch.delitem(sys.modules, "swanlab", raising=False)

    def read() -> list[Any]:
        path = tmp_path / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def words(output_dir: Path, rows: Path, *more: str) -> list[str]:
    return ["--model_name_or_path", "a/b", "--dataset", str(rows), "--output_dir", str(output_dir),
            *more]  # fmt: skip


def test_swanlab_is_an_option(
    tmp_path: Path, rows: Path, told: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline unless asked otherwise, and said so; LLaMA-Factory's names."""
    config = parse_train(words(tmp_path, rows, "--use_swanlab", "--swanlab_project", "客服"))
    assert config.run.swanlab == SwanLabOptions(mode="offline", project="客服")
    assert config.notices == (
        "--use_swanlab sends nothing: `swanlab sync` does, from where your key is",
    )
    monkeypatch.setenv("SWANLAB_API_KEY", "k")
    config = parse_train(words(tmp_path, rows, "--use_swanlab", "--swanlab_mode", "cloud"))
    assert (config.run.swanlab, config.notices) == (SwanLabOptions(mode="cloud"), ())
    assert parse_train(words(tmp_path, rows, "--use_swanlab", "false")).run.swanlab is None


@pytest.mark.parametrize(
    ("mode", "missing", "what"),
    [
        ("offline", "swanlab", "--use_swanlab needs the package swanlab"),
        ("cloud", "", "--swanlab_mode cloud needs SWANLAB_API_KEY"),
        ("local", "swanboard", "--swanlab_mode local needs the package swanboard"),
    ],
)
def test_swanlab_that_cannot_be_used_is_refused_at_once(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, mode: str, missing: str,
    what: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Before anything is loaded: it would ask for its key on a terminal that nobody sits at."""
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    monkeypatch.setattr(boards, "find_spec", lambda name: None if name == missing else object())
    monkeypatch.setattr("trainer.session.read_dataset", lambda *_: pytest.fail("it read the data"))
    assert run(make_config(run=RunOptions(swanlab=SwanLabOptions(mode=mode)))) == USAGE
    first, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(what)
    assert "swanlab" in hint


def test_flags_are_read_where_swanlab_is_not(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is checked at home, and runs on a machine that has the package."""
    monkeypatch.setattr(boards, "find_spec", lambda _name: None)
    assert parse_train(words(tmp_path, rows, "--use_swanlab")).run.swanlab is not None


@pytest.mark.torch
def test_swanlab_gets_what_the_log_has(
    make_config: Callable[..., Config], tmp_path: Path, told: Callable[[], list[Any]]
) -> None:
    """And Ctrl-C stays the run's own: it saves and ends with 75, though SwanLab takes it too."""

    def interrupt(step: int) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    config = make_config(run=RunOptions(swanlab=SwanLabOptions()), max_steps=4, val_size=3)
    assert run(config, interrupt) == SAVED_ON_REQUEST
    assert run(config) == FINISHED
    first, *numbers, last = told()
    given = first[1]
    assert (given["mode"], given["experiment_name"]) == ("offline", "output")
    assert given["logdir"] == str(tmp_path / "output" / "swanlog")
    assert given["config"]["lora_rank"] == 8
    steps = {entry[1]: entry[2]["loss"] for entry in numbers if entry[0] == "log"
             and "loss" in entry[2]}  # fmt: skip
    lines = (tmp_path / "output" / "trainer_log.jsonl").read_text().splitlines()
    logged = {f["current_steps"]: f["loss"] for f in map(json.loads, lines) if "loss" in f}
    assert steps == logged
    assert ["finish", {"state": "aborted"}] in numbers
    assert last == ["finish", {}]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_board_that_fails_ends_no_run(
    tmp_path: Path, told: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], where: str,
) -> None:  # fmt: skip
    """Said once, and no more numbers go there."""
    monkeypatch.setenv("SWANLAB_FAILS", where)
    before = signal.getsignal(signal.SIGINT)
    shown = Boards(tmp_path, swanlab=SwanLabOptions())
    for step in range(3):
        shown.add(step, loss=1.0)
    shown.close(FINISHED)
    assert capsys.readouterr().err.count(f"{where} failed") == 1
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("where", ["init", "finish"])
def test_a_board_that_hangs_is_left_behind(
    tmp_path: Path, told: Callable[[], list[Any]], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, where: str,
) -> None:  # fmt: skip
    """A network that is down, or its last numbers, are not worth a card's hours."""
    stand_in: Any = import_module("swanlab")

    def hang(**_given: object) -> None:
        time.sleep(60)

    setattr(stand_in, where, hang)
    monkeypatch.setattr(boards, "OPEN_S", 0.05)
    began_s = time.monotonic()
    shown = Boards(tmp_path, swanlab=SwanLabOptions())
    shown.close(FINISHED, at_most_s=0.05)
    assert time.monotonic() - began_s < 5
    assert capsys.readouterr().err.count("it did not answer within 0.05 s") == 1


@pytest.mark.torch
def test_tensorboard_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In runs/, closed at the end; what is None is left out."""
    seen: list[Any] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            seen.append(log_dir)

        def add_scalar(self, *what: object) -> None:
            seen.append(what)

        def flush(self) -> None:
            pass

        def close(self) -> None:
            seen.append("closed")

    stand_in = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    shown = Boards(tmp_path, tensorboard=True)
    shown.add(3, loss=1.5, lr=None)
    shown.close(FINISHED)
    assert seen == [str(tmp_path / "runs"), ("loss", 1.5, 3), "closed"]


@pytest.mark.torch
def test_tensorboard_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, and the run goes on; unasked, it is not even looked for."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Boards(tmp_path).add(1, loss=1.0)
    assert capsys.readouterr().err == ""
    Boards(tmp_path, tensorboard=True).add(1, loss=1.0)
    assert "pip install tensorboard" in capsys.readouterr().err
