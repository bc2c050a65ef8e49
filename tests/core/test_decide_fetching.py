"""Bringing home what an ended job still holds on its disk, under a lease of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.actions import Fetched
from costguard.core.decide import decide
from costguard.core.lease import Account
from costguard.core.power import Power
from costguard.core.snapshot import LinkFacts, Snapshot
from tests.core.snapshots import (
    INSTANCE,
    LEASE,
    NOW,
    RUNNING,
    YUAN,
    artifact,
    kinds,
    off,
    only,
)

FETCHING = replace(
    RUNNING,
    state="preparing",
    pause_reason="budget",
    wish="pull",
    link=LinkFacts(state="attached", since=NOW.plus_ms(-3_000), heard=NOW),
    artifacts=(artifact(1), artifact(2, "adapter")),
)
PAUSED = replace(
    FETCHING,
    lease=None,
    armed_end=None,
    link=LinkFacts(),
    instance=replace(
        INSTANCE, power=Power.STOPPED, reads=off(-5_000, -500), stopped_seen=True, interval=None
    ),
)


def why(snap: Snapshot) -> str:
    """Why it is over."""
    return only(snap, Fetched).text


def test_the_adapter_comes_home_first() -> None:
    """Once the line stands."""
    assert kinds(FETCHING) == ["EnsureLink", "Pull", "SetState"]
    assert decide(FETCHING, NOW)[1].artifact_id == 2  # type: ignore[union-attr]  # it is a Pull
    waiting = replace(FETCHING, link=LinkFacts(), has_ssh=False)
    assert kinds(waiting) == ["SetState"]


def test_an_attempt_that_never_began_is_stopped_before_it_is_leased() -> None:
    """Its agent would train under its first lease; a stop that it has had already is kept."""
    unbegun = replace(
        FETCHING,
        training=replace(FETCHING.training, launched_at_ms=None),
        link=replace(FETCHING.link, heartbeat=7, heartbeat_at=NOW),
    )
    assert kinds(unbegun) == ["EnsureLink", "Save", "SendLease", "Pull", "SetState"]
    told = replace(unbegun, link=replace(unbegun.link, stop_sent=True))
    assert kinds(told) == ["EnsureLink", "SendLease", "Pull", "SetState"]


def test_a_paused_instance_is_switched_on_for_it() -> None:
    """As for a resume; while it comes on, it is waited for."""
    assert kinds(PAUSED)[:2] == ["Grant", "PowerOn"]
    coming = replace(
        PAUSED,
        lease=LEASE,
        armed_end=LEASE.end,
        instance=replace(INSTANCE, power=Power.STOPPED, reads=off(-500), was_on=False),
    )
    assert kinds(coming) == ["SetState"]


def test_what_does_not_fit_is_left_where_it_is() -> None:
    """The job keeps the end that it had."""
    poor = replace(PAUSED, accounts=(Account("job x", 1_000 * YUAN, 970 * YUAN, 0, 0),))
    assert kinds(poor) == ["Fetched", "Finish"]
    assert "fits the budget" in why(poor)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"instance": None}, "nothing was ever rented"),
        ({"instance": replace(INSTANCE, provider_id=None)}, "nothing was ever rented"),
        ({"instance": replace(INSTANCE, absent=True)}, "switched off"),
        (
            {"instance": replace(INSTANCE, power=Power.STOPPED, reads=off(-2_000, -500))},
            "switched off",
        ),
        ({"link": LinkFacts(state="refused", detail="another key")}, "another key"),
        ({"instance": replace(INSTANCE, started_call=None)}, "in time"),
        ({"instance": replace(INSTANCE, started_call=NOW.plus_ms(-1_800_001))}, "in time"),
        ({"lease": None, "armed_end": None}, "no lease"),
        ({"armed_end": None}, "no lease"),
        ({"armed_end": NOW.plus_ms(5_000)}, "ran out"),
        ({"artifacts": ()}, "everything is home"),
        ({"artifacts": (artifact(1, pulled=True), artifact(2, failed=True))}, "everything is home"),
    ],
)
def test_it_is_over_for_a_reason(changed: dict[str, object], text: str) -> None:
    """Which is said."""
    assert text in why(replace(FETCHING, **changed))  # type: ignore[arg-type]  # its fields


@pytest.mark.parametrize(
    "changed",
    [
        {"armed_end": NOW.plus_ms(-30_000)},
        {"artifacts": (), "link": LinkFacts(state="attached", since=NOW.plus_ms(-2_999))},
        {"artifacts": (), "link": LinkFacts(state="attached")},
        {"artifacts": (), "link": LinkFacts(state="lost", since=NOW.plus_ms(-9_000))},
    ],
)
def test_it_is_not_over_yet(changed: dict[str, object]) -> None:
    """The timer is being armed, or the agent has not told its journal."""
    assert "Fetched" not in kinds(replace(FETCHING, **changed))  # type: ignore[arg-type]  # its fields
