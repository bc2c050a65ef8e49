"""Snapshots of a job in its usual states, for the tests of what is decided on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from costguard.core.decide import decide
from costguard.core.lease import Account, Interval, Lease
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import (
    ArtifactFacts,
    Exit,
    InstanceFacts,
    LinkFacts,
    Platform,
    Snapshot,
    TrainingFacts,
)
from costguard.core.spec import GuardLimits, InstanceWish, JobSpec, Run
from costguard.core.tariff import Tariff

YUAN = 1_000_000
NOW = Moment(50_000_000, 50_000_000, "boot")
SECOND = Tariff(3_600 * YUAN, 1)
SPEC = JobSpec(
    name="x",
    project="p",
    cap_micros=1_000 * YUAN,
    best_effort=False,
    instance=InstanceWish(provider="local"),
    runs=(Run(argv=("x",), save_grace_ms=10_000),),
    lease_ms=60_000,
    guards=GuardLimits(),
)
PLATFORM = Platform(1_000, 0, 5_000, 1_000, 1_000)
ON = (PowerRead(Power.RUNNING, NOW.plus_ms(-500)),)
INSTANCE = InstanceFacts(
    id=1,
    provider_id="i-1",
    power=Power.RUNNING,
    reads=ON,
    last_call=NOW.plus_ms(-30_000),
    stop_calls=0,
    stop_accepted=False,
    was_on=True,
    started_call=NOW.plus_ms(-30_000),
    interval=Interval(1, NOW.utc_ms - 20_000, 20 * YUAN),
    absent=False,
    stopped_seen=False,
)
LEASE = Lease(1, 1, NOW.plus_ms(-20_000), NOW.plus_ms(40_000), 56 * YUAN, 0, final=False)
ATTACHED = LinkFacts(state="attached", heard=NOW, heartbeat=7, heartbeat_at=NOW)
RUNNING = Snapshot(
    spec=SPEC,
    platform=PLATFORM,
    state="training",
    wish="run",
    pause_reason=None,
    verdict_at=None,
    created=NOW.plus_ms(-40_000),
    stage=0,
    stage_since=None,
    tariff=SECOND,
    instance=INSTANCE,
    lease=LEASE,
    armed_end=LEASE.end,
    accounts=(Account("job x", 1_000 * YUAN, 20 * YUAN, 56 * YUAN, 0),),
    link=ATTACHED,
    training=TrainingFacts(agent_now_ms=9_000, launched_at_ms=1, phase="load", phase_since_ms=2),
    has_ssh=True,
    fresh_read=True,
)
QUEUED = replace(
    RUNNING,
    state="queued",
    instance=None,
    lease=None,
    armed_end=None,
    link=LinkFacts(),
    training=TrainingFacts(),
    accounts=(Account("job x", 1_000 * YUAN, 0, 0, 0),),
)
ENDED = replace(RUNNING.training, exit=Exit(1, None, artifact_complete=False))
SAVED = replace(RUNNING.training, exit=Exit(75, None, artifact_complete=False))
POOR = (Account("job x", 76 * YUAN, 20 * YUAN, 56 * YUAN, 0),)
LATE = NOW.plus_ms(36_000)  # four seconds before the lease's end
NO_TIMER = replace(PLATFORM, timer_min_lead_ms=None)
A = TypeVar("A")


def only(snap: Snapshot, kind: type[A], now: Moment = NOW) -> A:
    """The one action of that kind."""
    found = [action for action in decide(snap, now) if isinstance(action, kind)]
    assert len(found) == 1, decide(snap, now)
    return found[0]


def kinds(snap: Snapshot, now: Moment = NOW) -> list[str]:
    """The names of the actions, in order."""
    return [type(action).__name__ for action in decide(snap, now)]


def off(*begun_ms: int) -> tuple[PowerRead, ...]:
    """Reads that say off, so long ago."""
    return tuple(PowerRead(Power.STOPPED, NOW.plus_ms(ms)) for ms in begun_ms)


def concluded(snap: Snapshot, reason: str, verdict_at: Moment = NOW) -> Snapshot:
    """The same with a verdict already given."""
    return replace(snap, pause_reason=reason, verdict_at=verdict_at)


def artifact(number: int, kind: str = "checkpoint", **given: bool) -> ArtifactFacts:
    """A complete result that is not home yet."""
    base = ArtifactFacts(number, f"{kind}-{number}", kind, number, False, False, False)
    return replace(base, **given)  # type: ignore[arg-type]  # only the flags are given
