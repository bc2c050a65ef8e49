"""What a person sees, kept as it is printed: a change of it is looked at, not only asserted.

After a change that is meant, `COSTGUARD_WRITE_TRANSCRIPTS=1` writes them anew; `git diff` is then
what has changed on screen.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from costguard import lang
from costguard.cli import words
from costguard.cli.estimate import estimate_lines
from costguard.cli.render import explain_lines, status_lines
from costguard.cli.spend import report_lines
from costguard.cli.text import Screen, width
from costguard.cli.watching import Histories
from costguard.store.database import Store
from costguard.store.migrate import upgrade
from tests.report.books import START_MS, Books, ask
from tests.report.night import a_night

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

KEPT = Path(__file__).with_name("transcripts")
LONG_NAME = "客服模型微调-第二轮-名字很长的任务"


class _LaterDay(dt.datetime):
    """A day on which none of the shown times is today's."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> _LaterDay:
        return cls(2026, 12, 1, tzinfo=tz)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished night, one that was stopped for idling, and one in training."""
    path = tmp_path_factory.mktemp("books") / "costguard.db"
    upgrade(path)
    opened = Store(path)
    with opened.write() as session:
        a_night(session, every_s=300)
        _idle(session)
        _training(session)
    return opened


def _idle(session: Session) -> None:
    books = Books.open(
        session,
        LONG_NAME,
        state="paused",
        phase=None,
        pause_reason="idle",
        verdict_text="GPU and CPU quiet for 300 s in the training phase",
        verdict_json='{"quiet_s": 300, "gpu_percent_max": 2, "cpu_cores": 0.01, "phase": "train"}',
        verdict_utc_ms=START_MS + 1_200_000,
    )
    running = books.interval()
    books.run_to(running, 900)
    for n in range(12):
        books.tell("progress", n + 1, after_s=n * 60, step=n, total_steps=375, loss=2.0)
    books.run_to(running, 1_200)


def _training(session: Session) -> None:
    books = Books.open(session, "train")
    books.reserve(4)
    books.run_to(books.interval(), 600)
    card = {"util_mean": 93.0, "util_max": 97, "mem_used_mib": 18_300, "mem_total_mib": 24_576}
    books.tell("gpu", 1, after_s=3_590, cards=[card])
    books.tell("progress", 2, after_s=3_595, step=120, total_steps=375, loss=1.8321)


def _watch(store: Store, screen: Screen) -> list[str]:
    """Some looks at a job that gets on."""
    histories = Histories()
    document = ask(store, "status", job="train", pid=42)
    for step in range(1, 61):
        row = document["jobs"][0]
        row |= {"step": step * 2, "loss": 3.0 / (1 + step / 20)}
        row["telemetry"]["gpu_util_percent"] = 80 + step % 15
        drawn = histories.lines(document, screen)
    return [*status_lines(document, screen), *drawn]


SCREENS: dict[str, Callable[[Store, Screen], list[str]]] = {
    "status": lambda store, screen: status_lines(ask(store, "status", pid=42), screen),
    "status-one": lambda store, screen: status_lines(
        ask(store, "status", job="train", pid=42), screen
    ),
    "watch": _watch,
    "report": lambda store, screen: report_lines(ask(store, "report"), screen),
    "report-by-gpu": lambda store, screen: report_lines(ask(store, "report", by="gpu"), screen),
    "explain-finished": lambda store, screen: explain_lines(
        ask(store, "explain", job="kefu"), screen
    ),
    "explain-idle": lambda store, screen: explain_lines(
        ask(store, "explain", job=LONG_NAME), screen
    ),
    "estimate": lambda _store, screen: estimate_lines(ESTIMATE, screen),
}


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_as_it_was_kept(
    store: Store, name: str, language: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line for line, and no line wider than the terminal, a Chinese character being two."""
    monkeypatch.setattr(words, "datetime", _LaterDay)
    lang.select(language)
    lines = SCREENS[name](store, Screen(columns=columns))
    lang.select("en")
    assert [line for line in lines if width(line) > columns] == []
    path = KEPT / f"{name}-{language}-{columns}.txt"
    if os.environ.get("COSTGUARD_WRITE_TRANSCRIPTS"):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert path.read_text(encoding="utf-8").splitlines() == lines


def test_every_kept_screen_is_one_that_is_shown() -> None:
    """None is left over from what is no longer there."""
    expected = {
        f"{name}-{lg}-{c}.txt" for name in SCREENS for lg in ("en", "zh") for c in (80, 140)
    }
    assert {path.name for path in KEPT.iterdir()} == expected


def _plan(provider: str, gpu: str, price: str, **changes: Any) -> dict[str, Any]:
    part = {
        "what": "train",
        "stage": 0,
        "steps": 375,
        "time_low_s": 1_800,
        "time_s": 2_250,
        "time_high_s": 5_600,
        "cost_yuan": "9.38",
    }
    plan: dict[str, Any] = {
        "provider": provider,
        "gpu": gpu,
        "gpu_count": 1,
        "is_asked_for": True,
        "in_stock": True,
        "price_yuan_per_hour": price,
        "tokens_per_s": 1_031,
        "speed_kind": "calculated",
        "speed_source": "60 % of 71 TFLOP/s bf16",
        "step_ms": [6_000],
        "measured_parts": ["setup"],
        "parts": [
            part | {"what": "setup", "stage": None, "steps": None, "time_s": 90},
            part | {"what": "download", "stage": None, "steps": None, "time_s": 294},
            part,
            part | {"what": "home", "stage": None, "steps": None, "time_s": 10},
        ],
        "time_s": 2_700,
        "cost_low_yuan": "7.50",
        "cost_yuan": "11.25",
        "cost_high_yuan": "28.00",
        "disk_yuan": "0.50",
        "fit": "fits",
        "reaches_s": None,
        "bites_at": None,
    }
    return plan | changes


ESTIMATE: dict[str, Any] = {
    "job": "kefu",
    "cap_yuan": "80.00",
    "reuse": None,
    "data": {"samples": 1_000, "tokens": 148_000, "counted_by": "characters"},
    "stages": [
        {
            "stage": 0,
            "samples": 1_000,
            "samples_per_step": 8,
            "epochs": "3",
            "steps": 375,
            "tokens": 444_000,
        }
    ],
    "plans": [
        _plan("compshare", "RTX 4090", "1.88", speed_kind="measured_elsewhere"),
        _plan("autodl", "NVIDIA GeForce RTX 3090 24G", "15.00"),
        _plan("chenyu", "A100", "40.00", fit="short", in_stock=None),
    ],
    "cheapest": 0,
    "savings": [
        {"what": "packing", "saves_s": 400, "saves_yuan": "1.67", "is_in_figures": True},
        {"what": "kept_disk", "saves_s": 294, "saves_yuan": "1.23", "is_in_figures": False},
    ],
    "unknown": [{"provider": "vast", "gpu": "Strange 9"}],
    "failed": [{"provider": "aws", "what": "the platform did not answer: timed out"}],
}
