from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.cli.text import Screen, width
from costguard.cli.watching import lead_up_lines
from costguard.report.lead_up import SLOT_MS, SLOTS
from tests.report.books import START_MS, Books, ask

if TYPE_CHECKING:
    from costguard.store.database import Store

HALF_HOUR_S = SLOTS * SLOT_MS // 1_000


def paused(store: Store, *, before_s: int = 0) -> dict[str, Any]:
    """An hour in which the card fell asleep 300 s before the verdict, and the loss with it."""
    with store.write() as session:
        books = Books.open(session, state="paused", pause_reason="idle")
        books.job.verdict_utc_ms = START_MS + (3_600 - before_s) * 1_000
        for n in range(240):
            at_s, busy = 15 * (n + 1), n < 220
            books.tell("gpu", 2 * n + 1, after_s=at_s, cards=[{"util_mean": 90 if busy else 2}])
            if busy:
                books.tell("progress", 2 * n + 2, after_s=at_s, step=n, loss=3.0 - n / 100)
    found: dict[str, Any] = ask(store, "explain", job="kefu")["lead_up"]
    return found


def test_the_half_hour_before_a_verdict_is_told_slot_by_slot(store: Store) -> None:
    """The mean of each slot's windows and its last loss; nothing where nothing was heard."""
    seen = paused(store)
    assert (seen["from"], seen["to"]) == ("2026-11-24T16:30:00.000Z", "2026-11-24T17:00:00.000Z")
    assert len(seen["gpu_util_percent"]) == len(seen["loss"]) == SLOTS
    assert seen["gpu_util_percent"][0] == 90
    assert seen["gpu_util_percent"][-7:] == [31.3, *[2] * 6]
    assert (seen["loss"][0], seen["loss"][-8:]) == (1.78, [0.82, 0.81, *[None] * 6])


def test_what_came_after_the_verdict_is_not_what_led_to_it(store: Store) -> None:
    """The stop's own quiet would look like the cause."""
    assert set(paused(store, before_s=400)["gpu_util_percent"]) == {90}


def test_it_is_drawn_in_80_columns_with_its_last_figures(store: Store) -> None:
    """One line each, and what a mark stands for."""
    _blank, head, gpu, loss = lead_up_lines(paused(store), Screen(columns=80))
    assert "45 s a mark" in head
    assert gpu.endswith("  2 %")
    assert loss.endswith("  0.8100")
    assert all(width(line) <= 80 for line in (head, gpu, loss))


def test_it_begins_with_the_first_news(store: Store) -> None:
    """A job of a minute has two marks, not forty."""
    with store.write() as session:
        books = Books.open(session)
        for n in range(6):
            books.tell("gpu", n + 1, after_s=10 * n, cards=[{"util_mean": 90}])
    seen = ask(store, "explain", job="kefu")["lead_up"]
    assert seen["gpu_util_percent"] == [90, 90]
    assert seen["from"] == "2026-11-24T15:59:20.000Z"


def test_where_nothing_was_heard_nothing_is_drawn(store: Store) -> None:
    """A job that never trained, or a verdict long after the last word."""
    with store.write() as session:
        books = Books.open(session, state="paused", pause_reason="blind")
        books.tell("gpu", 1, after_s=1, cards=[{"util_mean": 90}])
        books.job.verdict_utc_ms = START_MS + 2 * HALF_HOUR_S * 1_000
    assert ask(store, "explain", job="kefu")["lead_up"] is None
    assert lead_up_lines(None, Screen()) == []
