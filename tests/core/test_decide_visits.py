"""Visits: an ended job's instance held for a person, under leases that end with the visit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.actions import Fetched, Grant, SendLease
from costguard.core.decide import decide
from costguard.core.lease import Account
from costguard.core.moment import Moment
from costguard.core.power import Power
from costguard.core.snapshot import ArtifactFacts, LinkFacts, Snapshot, Visit
from costguard.core.tariff import Tariff
from costguard.core.visits import VISITOR_SILENT_MS
from tests.core.snapshots import (
    ATTACHED,
    INSTANCE,
    LATE,
    LEASE,
    NOW,
    PLATFORM,
    RUNNING,
    SECOND,
    SPEC,
    YUAN,
    artifact,
    kinds,
    off,
    only,
)

VISIT = Visit(1, "shell", 600_000, NOW.plus_ms(500_000), NOW)
RICH = (Account("job x", 10_000 * YUAN, 20 * YUAN, 56 * YUAN, 0),)
HELD = replace(
    RUNNING,
    state="preparing",
    pause_reason="finished",
    verdict_at=NOW.plus_ms(-20_000),
    wish="visit",
    visit=VISIT,
    accounts=RICH,
    artifacts=(artifact(1),),
)
OFF = replace(
    HELD,
    lease=None,
    armed_end=None,
    link=LinkFacts(),
    visit=replace(VISIT, until=None),
    instance=replace(
        INSTANCE, power=Power.STOPPED, reads=off(-5_000, -500), stopped_seen=True, interval=None
    ),
)


def heard_at(now: Moment, snap: Snapshot = HELD) -> Snapshot:
    """The same, with agent and visitor heard now."""
    assert snap.visit is not None
    return replace(snap, link=replace(ATTACHED, heard=now), visit=replace(snap.visit, heard=now))


def why(snap: Snapshot, now: Moment = NOW) -> str:
    """Why it is over."""
    return only(snap, Fetched, now).text


def test_it_is_held_and_nothing_is_brought_home() -> None:
    """The agent is told the lease; what lies on the disk is the visitor's affair."""
    assert kinds(HELD) == ["EnsureLink", "SendLease", "SetState"]


def test_it_is_switched_on_under_a_lease_no_longer_than_the_visit() -> None:
    """Reserved first; a short visit has a short lease."""
    assert kinds(OFF)[:2] == ["Grant", "PowerOn"]
    assert only(OFF, Grant).length_ms == SPEC.lease_ms
    short = replace(OFF, visit=replace(VISIT, length_ms=40_000, until=None))
    assert only(short, Grant).length_ms == 40_000
    again = replace(short, visit=replace(VISIT, length_ms=40_000, until=NOW.plus_ms(1_000)))
    assert only(again, Grant).length_ms == 40_000


def test_a_renewal_ends_with_the_visit() -> None:
    """So that timer and agent keep the visit's end as they keep a lease's."""
    half = NOW.plus_ms(15_000)
    snap = heard_at(half)
    assert only(snap, Grant, half).length_ms == SPEC.lease_ms
    soon = replace(snap, visit=replace(VISIT, until=half.plus_ms(30_000), heard=half))
    assert only(soon, Grant, half).length_ms == 30_000
    ending = replace(snap, visit=replace(VISIT, until=LEASE.end, heard=half))
    assert "Grant" not in kinds(ending, half)


def test_an_agent_is_never_left_alone_with_a_visit() -> None:
    """There is no training that it could judge."""
    trusted = replace(
        HELD,
        spec=replace(SPEC, long_leases=True),
        platform=replace(PLATFORM, in_guest_stop_proven=True),
    )
    assert not only(trusted, SendLease).alone


def test_the_next_pass_after_its_end_stops_at_once() -> None:
    """Nothing is saved and nothing fetched: its agent knows of no training."""
    over = replace(HELD, wish="keep")
    assert kinds(over) == ["StopPower", "SetState"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"visit": replace(VISIT, heard=NOW.plus_ms(-VISITOR_SILENT_MS - 1))}, "without a word"),
        ({"instance": replace(INSTANCE, absent=True)}, "switched off"),
        ({"link": LinkFacts(state="refused", detail="another key")}, "another key"),
        (
            {
                "link": LinkFacts(),
                "instance": replace(INSTANCE, started_call=NOW.plus_ms(-1_800_001)),
            },
            "in time",
        ),
        ({"visit": replace(VISIT, until=NOW)}, "its time, 10 minutes, is over"),
        ({"lease": None, "armed_end": None}, "no lease"),
        ({"accounts": (Account("job x", 10 * YUAN, 20 * YUAN, 0, 0),)}, "past the cap: job x"),
        (
            {
                "tariff": Tariff(36_000 * YUAN, 1),
                "accounts": (Account("j", 76 * YUAN, 20 * YUAN, 56 * YUAN, 0),),
            },
            "new price",
        ),
    ],
)
def test_it_is_over_for_a_reason(changed: dict[str, object], text: str) -> None:
    """Which the visitor reads."""
    assert text in why(replace(HELD, **changed))  # type: ignore[arg-type]  # its fields


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"visit": replace(VISIT, until=LATE.plus_ms(5_000), heard=LATE)}, "10 minutes, is over"),
        ({"visit": Visit(1, "chat", 60_000, LATE.plus_ms(4_000), LATE)}, "60 s, is over"),
        ({"visit": replace(VISIT, until=LATE.plus_ms(5_001), heard=LATE)}, "the lease ran out"),
        ({"lease": replace(LEASE, final=True)}, "reaches no further"),
        ({}, "the lease ran out"),
        ({"visit": replace(VISIT, until=None, heard=LATE)}, "the lease ran out"),
        ({"link": replace(ATTACHED, heard=NOW.plus_ms(-60_000))}, "the lease ran out"),
    ],
)
def test_it_goes_off_before_its_last_lease_ends(changed: dict[str, object], text: str) -> None:
    """Its time, its money, or what kept the lease from being renewed."""
    snap = replace(heard_at(LATE), **changed)  # type: ignore[arg-type]  # its fields
    assert text in why(snap, LATE)


@pytest.mark.parametrize(
    "changed",
    [
        {"instance": replace(INSTANCE, started_call=NOW.plus_ms(-1_800_001))},
        {"armed_end": NOW.plus_ms(-30_000)},
        {"visit": replace(VISIT, heard=NOW.plus_ms(-VISITOR_SILENT_MS))},
        {"visit": replace(VISIT, until=None)},
        {"artifacts": (ArtifactFacts(1, "a", "adapter", 1, True, False, False),)},
        {"tariff": Tariff(7_200 * YUAN, 1)},
    ],
)
def test_it_is_not_over_yet(changed: dict[str, object]) -> None:
    """A visit may be longer than the time to get in, and a price that fits is paid."""
    assert "Fetched" not in kinds(replace(HELD, **changed))  # type: ignore[arg-type]  # its fields


def test_nobody_is_waited_for_while_there_is_no_card() -> None:
    """A visitor who has gone needs no machine any more; one who waits gets it."""
    waiting = replace(OFF, retry_at_ms=NOW.utc_ms + 1_000)
    assert kinds(waiting) == ["SetState"]
    gone = replace(VISIT, until=None, heard=NOW.plus_ms(-VISITOR_SILENT_MS - 1))
    assert "without a word" in why(replace(waiting, visit=gone))


def test_after_a_reboot_of_our_machine_a_lease_is_had_or_it_goes_off() -> None:
    """No lease is assumed across it."""
    rebooted = Moment(NOW.utc_ms, 5, "next")
    visit = replace(VISIT, heard=rebooted)
    snap = replace(HELD, link=replace(ATTACHED, heard=rebooted), visit=visit)
    assert kinds(snap, rebooted)[0] == "Grant"
    poor = replace(
        snap,
        lease=replace(LEASE, reserved_micros=0),
        accounts=(Account("job x", 20 * YUAN, 20 * YUAN, 0, 0),),
    )
    assert "reboot" in why(poor, rebooted)


def test_a_lowered_cap_cuts_the_lease_first() -> None:
    """The agent is told by the next pass."""
    low = replace(HELD, accounts=(Account("job x", 70 * YUAN, 20 * YUAN, 56 * YUAN, 0),))
    assert kinds(low)[0] == "Shorten"
    assert "SendLease" not in kinds(low)
    assert decide(low, NOW) == decide(low, NOW)


def test_a_dearer_price_under_a_long_lease_cuts_it() -> None:
    """What spans the whole budget has nothing to draw on: it is cut, and goes on until then."""
    long = replace(LEASE, end=NOW.plus_ms(400_000), reserved_micros=416 * YUAN)
    scopes = (Account("job x", 436 * YUAN, 20 * YUAN, 416 * YUAN, 0),)
    snap = replace(
        HELD,
        tariff=Tariff(2 * SECOND.price_micros_per_hour, 1),
        lease=long,
        armed_end=long.end,
        accounts=scopes,
    )
    assert kinds(snap)[0] == "Shorten"
