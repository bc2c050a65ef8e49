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


def test_one_read_is_no_proof() -> None:
    """A single answer may be stale."""
    assert not PROOF.holds(reads((OFF, 2_000)), at(1_000))


def test_reads_too_close_are_no_proof() -> None:
    """Two looks at one cached answer are one look."""
    assert not PROOF.holds(reads((OFF, 2_000), (OFF, 2_999)), at(1_000))


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
