from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from costguard.notify.quiet import is_quiet, minute_of_day, morning_of

SHANGHAI = ZoneInfo("Asia/Shanghai")
MIDNIGHT_MS = 1_795_536_000_000  # in Shanghai
MINUTE_MS = 60_000


@pytest.mark.parametrize(
    ("span", "quiet"),
    [
        ((60, 120), [60, 90, 119]),
        ((1_380, 450), [0, 60, 449, 1_380, 1_439]),
        ((60, 60), []),
        (None, []),
    ],
)
def test_the_quiet_minutes_of_a_day(span: tuple[int, int] | None, quiet: list[int]) -> None:
    """From the first to before the last, past midnight too; a span without length is none."""
    asked = sorted({0, 59, 60, 90, 119, 120, 449, 450, 700, 1_379, 1_380, 1_439})
    found = [each for each in asked if is_quiet(MIDNIGHT_MS + each * MINUTE_MS, SHANGHAI, span)]
    assert [each for each in found if each in quiet] == quiet
    assert span is None or (len(found) == 0) == (span[0] == span[1])
    assert 700 not in found


def test_it_is_the_walls_clock_that_counts() -> None:
    """Eight in the morning is another instant elsewhere."""
    assert minute_of_day(MIDNIGHT_MS, SHANGHAI) == 0
    assert minute_of_day(MIDNIGHT_MS, ZoneInfo("UTC")) == 16 * 60


@pytest.mark.parametrize(
    ("minute", "due"), [(479, False), (480, True), (719, True), (720, False), (1_439, False)]
)
def test_a_morning_lasts_until_noon(minute: int, due: bool) -> None:
    """Late it still comes; at night it does not."""
    found = morning_of(MIDNIGHT_MS + minute * MINUTE_MS, SHANGHAI, 480)
    assert found == (("2026-11-25", MIDNIGHT_MS + 480 * MINUTE_MS) if due else None)
