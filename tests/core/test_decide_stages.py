"""From stage to stage on one instance, and the agent that may be left alone with its lease."""

from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.actions import ArmTimer, Grant, Shorten
from costguard.core.decide import decide
from costguard.core.lease import Account
from costguard.core.leasing import goes_alone
from costguard.core.power import Power
from costguard.core.snapshot import Exit, LinkFacts, Snapshot, Step, Verdict
from costguard.core.spec import Run, Stage
from costguard.core.tariff import Tariff
from costguard.core.verdicts import judge
from tests.core.snapshots import (
    INSTANCE,
    LEASE,
    NO_TIMER,
    NOW,
    PLATFORM,
    RUNNING,
    SPEC,
    YUAN,
    artifact,
    kinds,
    off,
    only,
)

FINISHED = replace(
    RUNNING.training,
    exit=Exit(0, None, artifact_complete=True),
    steps=(Step(9, 9_000, 2.0),),
    first_losses=(2.0,),
)
RUN = Run(argv=("x",), save_grace_ms=10_000)
LADDER = replace(SPEC, stages=(Stage(max_samples=100), Stage()), runs=(RUN, RUN))
BETWEEN = replace(RUNNING, spec=LADDER, training=FINISHED)
GATED = replace(
    BETWEEN, spec=replace(LADDER, stages=(Stage(100, gate_loss_drop_percent=10), Stage()))
)


def lowered(snap: Snapshot) -> Snapshot:
    """Its cap lowered to ten seconds more and L."""
    return replace(snap, accounts=(Account("job x", 46 * YUAN, 20 * YUAN, 56 * YUAN, 0),))


# --------------------------------------------------------------------------- stages


def test_a_finished_stage_brings_its_adapter_home_and_goes_on() -> None:
    """Under the lease as it is."""
    fetching = replace(BETWEEN, artifacts=(artifact(1), artifact(2, "adapter")))
    assert kinds(fetching) == ["SendLease", "Pull"]
    assert kinds(BETWEEN) == ["SendLease", "NextStage"]
    home = replace(fetching, artifacts=(artifact(2, "adapter", pulled=True),))
    assert kinds(home)[-1] == "NextStage"
    broken = replace(fetching, artifacts=(artifact(2, "adapter", failed=True),))
    assert kinds(broken)[-1] == "NextStage"


def test_between_stages_the_line_is_made_first() -> None:
    """The next stage is started through it."""
    assert kinds(replace(BETWEEN, link=LinkFacts())) == ["EnsureLink"]


def test_between_stages_a_lowered_cap_cuts_the_lease_first() -> None:
    """And nothing else is begun in that pass."""
    assert kinds(lowered(BETWEEN)) == ["Shorten", "ArmTimer"]


def test_the_last_stage_ends_the_job() -> None:
    """There is none behind it."""
    last = replace(BETWEEN, stage=1)
    verdict = judge(last, NOW)
    assert verdict is not None
    assert verdict.reason == "finished"
    assert kinds(last)[0] == "Conclude"


def test_a_gate_that_is_not_passed_pauses_unless_told_otherwise() -> None:
    """The stage's loss did not fall."""
    assert kinds(GATED)[0] == "Conclude"
    guards = replace(GATED.spec.guards, on_gate="continue")
    assert kinds(replace(GATED, spec=replace(GATED.spec, guards=guards)))[-1] == "NextStage"


def test_between_stages_an_instance_found_off_ends_the_job() -> None:
    """Nothing can go on there."""
    gone = replace(
        BETWEEN, instance=replace(INSTANCE, power=Power.STOPPED, reads=off(-2_000, -500))
    )
    assert kinds(gone)[0] == "Conclude"


def test_between_stages_a_lease_that_runs_out_ends_the_job() -> None:
    """The money guards go on."""
    assert kinds(BETWEEN, NOW.plus_ms(39_000))[0] == "Conclude"


# --------------------------------------------------------------------------- alone


ALONE = replace(
    RUNNING,
    spec=replace(SPEC, long_leases=True),
    platform=replace(PLATFORM, in_guest_stop_proven=True),
    shares_caps=False,
)


def test_a_proven_agent_is_given_all_that_the_budget_allows() -> None:
    """At once: its short lease is outgrown."""
    assert goes_alone(ALONE)
    assert only(ALONE, Grant).length_ms == 980_000 - 16_000


@pytest.mark.parametrize(
    "missing",
    [
        {"spec": SPEC},
        {"platform": PLATFORM},
        {"link": LinkFacts(state="lost")},
        {"training": replace(RUNNING.training, launched_at_ms=None)},
        {"shares_caps": True},
    ],
)
def test_whoever_lacks_one_thing_keeps_to_short_leases(missing: dict[str, object]) -> None:
    """The permit, the proof, the line, the training, or caps of its own."""
    missing = {"spec": replace(SPEC, long_leases="spec" not in missing), **missing}
    if missing["spec"] == SPEC:
        missing["spec"] = replace(SPEC, long_leases=False)
    assert not goes_alone(replace(ALONE, **missing))  # type: ignore[arg-type]  # its fields


def test_the_agents_own_verdict_is_kept() -> None:
    """Given while it was alone."""
    own = Verdict("stalled", "no step", {"by": "agent"}, save=False)
    told = replace(RUNNING, training=replace(RUNNING.training, verdict=own))
    assert judge(told, NOW) == own


SWITCHED_OFF = replace(
    ALONE,
    instance=replace(INSTANCE, power=Power.STOPPED, reads=off(-2_000, -500)),
    lease=replace(LEASE, end=NOW.plus_ms(900_000)),
    armed_end=NOW.plus_ms(900_000),
)


def test_an_agent_that_switched_off_alone_is_asked_why() -> None:
    """Once: its disk knows."""
    assert kinds(SWITCHED_OFF) == ["Collect"]
    assert kinds(replace(SWITCHED_OFF, collected=True))[0] == "Conclude"


@pytest.mark.parametrize(
    "other",
    [
        {"lease": LEASE, "armed_end": LEASE.end},
        {"wish": "pause"},
        {"instance": replace(INSTANCE, power=Power.STOPPED, reads=off(-500))},
        {"training": replace(RUNNING.training, exit=Exit(0, None, artifact_complete=True))},
        {"accounts": (Account("job x", 1, 2, 0, 0),)},
        {"lease": None, "armed_end": None},
        {"instance": None},
    ],
)
def test_otherwise_there_is_nothing_to_ask(other: dict[str, object]) -> None:
    """A short lease, a person's wish, one read, an exit that is known, a breach."""
    assert "Collect" not in kinds(replace(SWITCHED_OFF, **other))  # type: ignore[arg-type]  # fields


def test_off_at_the_end_of_the_last_lease_is_the_budgets_doing() -> None:
    """Nobody else switched it off."""
    over = replace(
        RUNNING,
        instance=replace(INSTANCE, power=Power.STOPPED, reads=off(-2_000, -500)),
        lease=replace(LEASE, end=NOW.plus_ms(-1_000), final=True),
        armed_end=NOW.plus_ms(-1_000),
    )
    verdict = judge(over, NOW)
    assert verdict is not None
    assert (verdict.reason, verdict.evidence) == ("budget", {"lease_ended": True})


# --------------------------------------------------------------------------- a cap that was lowered


def test_a_lease_is_cut_to_what_a_lowered_cap_allows() -> None:
    """And the platform's timer with it; the agent is told by the next pass."""
    cut = lowered(RUNNING)
    assert only(cut, Shorten).length_ms == 10_000
    assert only(cut, ArmTimer).timer_at_ms == NOW.utc_ms + 20_000
    assert kinds(replace(cut, platform=NO_TIMER)) == ["Shorten"]


def test_without_a_price_nothing_is_cut() -> None:
    """What is not known cannot be reckoned."""
    assert Shorten not in map(type, decide(replace(lowered(RUNNING), tariff=None), NOW))


LONG = replace(LEASE, end=NOW.plus_ms(900_000), reserved_micros=916 * YUAN)
DEARER = replace(
    ALONE,
    tariff=Tariff(2 * 3_600 * YUAN),
    lease=LONG,
    armed_end=LONG.end,
    accounts=(Account("job x", 1_000 * YUAN, 20 * YUAN, 916 * YUAN, 0),),
)


def test_a_long_lease_is_cut_to_what_a_risen_price_leaves() -> None:
    """A cap of 1,000 yuan is 500 s at two a second: 20 s are gone, and L of 16 s is kept free."""
    assert only(DEARER, Shorten).length_ms == 500_000 - 20_000 - 16_000


def test_a_long_lease_that_a_risen_price_cuts_ends_no_run() -> None:
    """A short one would have been renewed, or not: here there is something to cut."""
    assert judge(DEARER, NOW) is None
    short = replace(DEARER, spec=replace(DEARER.spec, lease_ms=920_000))
    verdict = judge(short, NOW)
    assert verdict is not None
    assert (verdict.reason, verdict.text) == (
        "budget",
        "at the new price the lease does not fit the budget",
    )
