from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.saves import SaveTimes
from tests.agent.harness import touch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.agent.harness import Desk


def seen(*messages: tuple[str, int, dict[str, Any]]) -> SaveTimes:
    """What is learned from messages of (kind, time, fields)."""
    times = SaveTimes()
    for kind, at_ms, fields in messages:
        times.take(kind, fields, at_ms)
    return times


def test_a_save_phase_is_timed() -> None:
    """From its beginning to the next phase; the longest counts."""
    times = seen(
        ("phase", 0, {"phase": "save"}),
        ("phase", 4_000, {"phase": "train"}),
        ("phase", 9_000, {"phase": "save"}),
        ("phase", 11_000, {"phase": "train"}),
        ("phase", 99_000, {"phase": "evaluate"}),
    )
    assert times.longest_ms == 4_000


def test_the_way_from_the_signal_to_the_saved_exit_is_timed() -> None:
    """It holds the rest of the optimizer step; an exit with another code says nothing of saves."""
    asked = ("stopping", 1_000, {"save": True})
    ended = {"code": 75, "ended_boot_ms": 21_000}
    assert seen(asked, ("exit", 22_000, ended)).longest_ms == 20_000
    assert seen(asked, ("exit", 22_000, {**ended, "code": 1})).longest_ms is None
    assert seen(("exit", 22_000, ended)).longest_ms is None
    assert seen(asked, ("hello", 1, {}), ("exit", 22_000, ended)).longest_ms is None


@pytest.mark.parametrize(
    ("longest_ms", "grace_ms"),
    [(None, 60_000), (1_000, 20_000), (10_000, 30_000), (50_000, 60_000)],
)
def test_the_grace_follows_what_was_seen(longest_ms: int | None, grace_ms: int) -> None:
    """Three times the longest, twenty seconds at least, and never more than was paid for."""
    times = SaveTimes()
    times.longest_ms = longest_ms
    assert times.grace_ms(60_000) == grace_ms


def test_saves_that_outlast_the_grace_begin_before_the_leases_end() -> None:
    """By what they lack, bounded by a quarter of the lease."""
    times = SaveTimes()
    assert times.lead_ms(60_000, 900_000) == 0
    times.longest_ms = 90_000
    assert times.lead_ms(60_000, 900_000) == 30_000
    assert times.lead_ms(60_000, 60_000) == 15_000
    assert times.lead_ms(120_000, 900_000) == 0


def test_a_slow_save_is_begun_in_time(desk: Callable[..., Desk], tmp_path: Path) -> None:
    """SIGTERM comes 30 s before the end, and the kill not before the end and the grace."""
    one = desk({"steps": 100_000}, in_guest_stop=touch(tmp_path / "off"), save_grace_s=60)
    one.supervisor._alone.saves.longest_ms = 90_000
    one.lease(600)
    one.until(lambda: bool(one.of("progress")))
    one.clock.advance(569)
    one.step()
    assert not one.of("stopping")
    one.clock.advance(1)
    one.step()
    (told,) = one.of("stopping")
    assert told["why"] == "lease"
    assert told["kill_at_boot_ms"] == one.clock.now_ms + 90_000


def test_a_quick_saver_is_not_waited_for_as_long(desk: Callable[..., Desk]) -> None:
    """A hung training whose saves took a second is killed after twenty, not after an hour."""
    one = desk({"steps": 100_000, "on_term": "ignore"}, save_grace_s=3600)
    one.supervisor._alone.saves.longest_ms = 1_000
    one.lease(600)
    one.until(lambda: bool(one.of("progress")))
    one.clock.advance(600)
    one.step()
    assert one.of("stopping")[0]["kill_at_boot_ms"] == one.clock.now_ms + 20_000
