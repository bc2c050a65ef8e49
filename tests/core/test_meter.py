from __future__ import annotations

from dataclasses import replace

from costguard.core.meter import NOTHING, Metered, MeterStep, owed_micros, step
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Tariff


def at(ms: int) -> Moment:
    """An instant of one boot."""
    return Moment(ms, ms, "boot")


def on(ms: int, **told: int) -> PowerRead:
    """A read that shows it on."""
    return PowerRead(Power.RUNNING, at(ms), **told)  # type: ignore[arg-type]  # only times are told


def off(ms: int, **told: int) -> PowerRead:
    """A read that shows it off."""
    return PowerRead(Power.STOPPED, at(ms), **told)  # type: ignore[arg-type]  # as above


OPEN = Metered(1, 1_000, at(2_000), 5_000, 5_000, 0, Tariff(3_600, 1))


def test_rent_begins_when_the_platform_says_within_what_we_saw() -> None:
    """Between our start call and the first read that shows it on."""
    told = step(None, on(5_000, charged_since_ms=3_000), at(5_000), 1_000, 9_999)
    assert told == MeterStep(open_at_ms=3_000, seen_to_ms=5_000, meter_to_ms=5_000)


def test_a_start_before_our_call_or_after_our_read_is_not_believed() -> None:
    """The platform's clock may be off; ours bounds it."""
    early = step(None, on(5_000, charged_since_ms=1), at(5_000), 1_000, 9_999)
    late = step(None, on(5_000, charged_since_ms=9_000), at(5_000), 1_000, 9_999)
    assert (early.open_at_ms, late.open_at_ms) == (1_000, 5_000)


def test_without_the_platforms_word_rent_begins_at_our_call() -> None:
    """The conservative end of what is possible."""
    assert step(None, on(5_000), at(5_000), 1_000, 9_999).open_at_ms == 1_000


def test_an_instance_that_is_off_opens_nothing() -> None:
    """Nor does a platform that does not answer."""
    assert step(None, off(5_000), at(5_000), 1_000, 9_999) == NOTHING
    assert step(None, None, at(5_000), 1_000, 9_999) == NOTHING


def test_a_read_that_shows_it_on_meters_up_to_when_it_was_asked() -> None:
    """Not up to now: the answer says nothing of later."""
    assert step(OPEN, on(8_000), at(9_000), None, 9_999).meter_to_ms == 8_000


def test_a_clock_set_back_does_not_stop_the_meter() -> None:
    """Elapsed time is the larger of what the two clocks say."""
    read = PowerRead(Power.RUNNING, Moment(100, 8_000, "boot"))
    assert step(OPEN, read, at(8_000), None, 9_999).meter_to_ms == 8_000


def test_silence_is_waited_out_and_then_charged_as_running() -> None:
    """Unknown is treated as running."""
    assert step(OPEN, None, at(9_000), None, 5_000) == NOTHING
    assert step(OPEN, None, at(20_000), None, 5_000).meter_to_ms == 20_000


def test_rent_ends_when_the_platform_says_within_what_we_saw() -> None:
    """Between the last read on and the first read off."""
    assert step(OPEN, off(9_000, charged_until_ms=7_000), at(9_000), None, 1).close_at_ms == 7_000
    assert step(OPEN, off(9_000, charged_until_ms=4_000), at(9_000), None, 1).close_at_ms == 5_000
    assert step(OPEN, off(9_000, charged_until_ms=99_000), at(9_000), None, 1).close_at_ms == 9_000
    assert step(OPEN, off(9_000), at(9_000), None, 1).close_at_ms == 9_000


def test_off_but_billing_runs_on() -> None:
    """The platform's word on charging counts, not the power lamp."""
    billing = replace(off(9_000), power=Power.OFF_BILLING, charging=True)
    assert step(OPEN, billing, at(9_000), None, 1).meter_to_ms == 9_000


def test_what_is_owed_is_the_whole_interval() -> None:
    """One micro-yuan a second from its start."""
    assert owed_micros(OPEN, 9_000) == 8
