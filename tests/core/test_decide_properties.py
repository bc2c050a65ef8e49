from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from costguard.core.decide import FINAL_STATES, decide, proven_stopped
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import LinkFacts, TrainingFacts
from tests.core.snapshots import (
    ENDED,
    INSTANCE,
    LATE,
    LEASE,
    NO_TIMER,
    NOW,
    PLATFORM,
    POOR,
    RUNNING,
    SAVED,
    artifact,
)

MS = st.sampled_from([-70_000, -2_000, -1_000, -500, 0])
FACTS = st.fixed_dictionaries(
    {
        "state": st.sampled_from(["queued", "training", "saving", *sorted(FINAL_STATES)]),
        "wish": st.sampled_from(["run", "pause", "release"]),
        "pause_reason": st.sampled_from([None, "idle", "finished", "failed", "blind"]),
        "training": st.sampled_from([TrainingFacts(), RUNNING.training, ENDED, SAVED]),
        "lease": st.sampled_from([None, LEASE]),
        "armed_end": st.sampled_from([None, LEASE.end, NOW]),
        "accounts": st.sampled_from([RUNNING.accounts, POOR, ()]),
        "tariff": st.sampled_from([None, RUNNING.tariff]),
        "has_ssh": st.booleans(),
        "fresh_read": st.booleans(),
        "platform": st.sampled_from([PLATFORM, NO_TIMER]),
        "artifacts": st.sampled_from([(), (artifact(1),)]),
        "open_intents": st.sampled_from([frozenset(), frozenset({"create"})]),
    }
)
READS = st.lists(st.tuples(st.sampled_from(list(Power)), MS), max_size=3)
LINKS = st.builds(
    LinkFacts,
    state=st.sampled_from(["none", "connecting", "attached", "lost", "refused"]),
    heard=st.none() | MS.map(NOW.plus_ms),
    heartbeat=st.none() | st.just(7),
    stop_sent=st.booleans(),
)
INSTANCES = st.none() | st.builds(
    lambda pairs, **given: replace(
        INSTANCE,
        reads=tuple(PowerRead(power, NOW.plus_ms(ms)) for power, ms in sorted(pairs)),
        power=pairs[-1][0] if pairs else Power.UNKNOWN,
        **given,
    ),
    READS,
    provider_id=st.sampled_from([None, "i-1"]),
    last_call=st.none() | MS.map(NOW.plus_ms),
    stop_calls=st.integers(0, 2),
    was_on=st.booleans(),
    absent=st.booleans(),
)
NOWS = st.sampled_from([NOW, LATE, NOW.plus_ms(10**7), Moment(NOW.utc_ms, 3, "next")])


@given(FACTS, INSTANCES, LINKS, NOWS)
def test_whatever_is_known_deciding_is_total_pure_and_safe(
    facts: dict[str, object], instance: object, link: LinkFacts, now: Moment
) -> None:
    """The same twice; no money where it must end; "ended" only with the proof or without a rent."""
    snap = replace(
        RUNNING,
        instance=instance,  # type: ignore[arg-type]  # InstanceFacts, or none
        link=link,
        verdict_at=NOW if facts["pause_reason"] else None,
        **facts,  # type: ignore[arg-type]  # field by field
    )
    actions = decide(snap, now)
    assert decide(snap, now) == actions
    names = [type(action).__name__ for action in actions]
    if snap.wish != "run" or snap.pause_reason or snap.in_breach or snap.state in FINAL_STATES:
        assert not {"Grant", "Create", "SendLease", "ArmTimer"} & set(names)
    if "Create" in names:
        assert names[:2] == ["Grant", "Create"]
        assert snap.instance is None
    if "Finish" in names and snap.instance is not None and snap.state not in FINAL_STATES:
        assert proven_stopped(snap)
    if "Release" in names:
        assert snap.state in FINAL_STATES
    if "SendLease" in names:
        assert snap.lease is not None
