from __future__ import annotations

from hypothesis import given, strategies as st

from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead, StopProof, off_run

PROOF = StopProof(apart_ms=1_000)


def at(ms: int) -> Moment:
    """An instant of one boot."""
    return Moment(ms, ms, "boot")


def reads(*pairs: tuple[Power, int]) -> tuple[PowerRead, ...]:
    """Reads of these powers, begun at these times."""
    return tuple(PowerRead(power, at(ms)) for power, ms in pairs)


OFF, ON = Power.STOPPED, Power.RUNNING


def test_two_reads_a_poll_apart_after_the_call_are_a_proof() -> None:
    """Invariant I4, fulfilled."""
    assert PROOF.holds(reads((OFF, 2_000), (OFF, 3_000)), at(1_000))


def test_one_read_is_no_proof_even_of_a_platform_that_needs_no_distance() -> None:
    """A single answer may be stale; two reads are two reads."""
    assert not StopProof(apart_ms=0).holds(reads((OFF, 2_000)), at(1_000))
    assert StopProof(apart_ms=0).holds(reads((OFF, 2_000), (OFF, 2_000)), at(1_000))


def test_reads_too_close_are_no_proof() -> None:
    """Two looks at one cached answer are one look."""
    assert not PROOF.holds(reads((OFF, 2_000), (OFF, 2_999)), at(1_000))


def test_reads_between_do_not_bring_the_first_and_the_last_together() -> None:
    """However often it was looked in between."""
    assert PROOF.holds(reads((OFF, 2_000), (OFF, 2_500), (OFF, 3_000)), at(1_000))


def test_a_read_begun_a_millisecond_after_the_call_counts() -> None:
    """After is after."""
    assert PROOF.holds(reads((OFF, 1_001), (OFF, 2_001)), at(1_000))


def test_a_read_begun_before_the_last_call_does_not_count() -> None:
    """It says nothing about what the call brought about."""
    assert not PROOF.holds(reads((OFF, 1_000), (OFF, 2_500)), at(1_000))


def test_any_other_answer_starts_the_proof_anew() -> None:
    """Off, on, off is one read of off."""
    assert off_run(reads((OFF, 1), (ON, 2), (OFF, 3))) == reads((OFF, 3))


def test_off_but_billing_and_unknown_are_running() -> None:
    """Only a plain stopped or released means no rent."""
    charging = [power for power in Power if power.may_charge]
    assert set(Power) - set(charging) == {Power.STOPPED, Power.RELEASED}


@given(
    st.lists(st.tuples(st.sampled_from(list(Power)), st.integers(0, 9_000)), max_size=8),
    st.integers(0, 9_000),
)
def test_no_order_of_reads_proves_without_two_valid_ones(
    pairs: list[tuple[Power, int]], call_ms: int
) -> None:
    """Whatever comes in, a proof needs two off reads after the call, the last of all reads."""
    found = reads(*sorted(pairs, key=lambda pair: pair[1]))
    if PROOF.holds(off_run(found), at(call_ms)):
        valid = [r for r in off_run(found) if r.begun.utc_ms > call_ms]
        assert len(valid) >= 2
        assert valid[-1].begun.utc_ms - valid[0].begun.utc_ms >= 1_000
        assert not found[-1].power.may_charge


def test_a_wall_clock_that_jumps_between_two_reads_makes_no_proof() -> None:
    """Two looks a moment apart stay a moment apart."""
    early = PowerRead(OFF, Moment(2_000, 2_000, "boot"))
    late = PowerRead(OFF, Moment(3_602_000, 2_010, "boot"))
    assert not PROOF.holds((early, late), at(1_000))


def test_after_a_reboot_the_wall_clock_tells_the_time_between_reads() -> None:
    """There is no other clock of both boots."""
    early = PowerRead(OFF, Moment(2_000, 9_000, "boot"))
    late = PowerRead(OFF, Moment(3_000, 5, "next"))
    assert PROOF.holds((early, late), at(1_000))
    assert not PROOF.holds((early, PowerRead(OFF, Moment(2_999, 5, "next"))), at(1_000))


def test_without_any_call_two_reads_are_enough() -> None:
    """An instance that was adopted may never have been called."""
    assert PROOF.holds(reads((OFF, 2_000), (OFF, 3_000)), None)


def test_a_platform_that_says_off_and_still_charges_is_not_off() -> None:
    """Its word on the rent counts, not the power lamp."""
    billing = PowerRead(OFF, at(3), charging=True)
    assert off_run((*reads((OFF, 1)), billing)) == ()
    assert off_run((billing, *reads((OFF, 4)))) == reads((OFF, 4))


def test_on_is_not_off_even_where_no_rent_is_said_to_run() -> None:
    """A machine that is up may begin to cost at any moment."""
    assert off_run((PowerRead(ON, at(1), charging=False),)) == ()


def test_the_platforms_word_on_charging_comes_before_the_power_state() -> None:
    """Where it gives none, the power state decides."""
    assert not PowerRead(ON, at(1), charging=False).is_charging
    assert PowerRead(Power.STARTING, at(1)).is_charging
    assert not PowerRead(Power.RELEASED, at(1)).is_charging
