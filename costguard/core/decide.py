"""What to do next with one job: `decide(snapshot, now) -> actions`, pure and total.

Level-triggered: the whole state is looked at each time, nothing is remembered between passes, and
the same snapshot always gives the same actions, so that a restart needs no special code.
"""

from __future__ import annotations

from dataclasses import replace

from costguard.core import actions as act
from costguard.core.lease import aside_micros, has_ended, offer_lease, runway_ms
from costguard.core.leasing import (
    LONG_LEASE_MS,
    granting,
    is_silent,
    leasing,
    short_lease_ms,
)
from costguard.core.moment import Moment, elapsed_ms, has_passed
from costguard.core.power import Power, StopProof, off_run
from costguard.core.snapshot import InstanceFacts, Snapshot, Verdict
from costguard.core.verdicts import account_lines, judge, judge_step_up
from costguard.core.visits import why_over

FIRST_LEASE_SHORTEST_MS = 30_000
ATTACH_PATIENCE_MS = 5_000  # a daemon that has just come back waits so long for the agent
PULL_PATIENCE_MS = 120_000
QUEUE_PATIENCE_MS = 30_000  # a start that waits longer for its card may wait for ever
START_RETRY_MS = 30_000  # a start call that shows no effect is made again
STOP_RETRY_MS = (0, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000)
HOLDING_WISHES = frozenset({"pull", "visit"})
POLLS_LOST = 3  # so many without an answer, and none is waited for
FINAL_STATES = frozenset({"paused", "finished", "failed", "released"})


def decide(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """The actions of this pass, in order; the caller does not go on past one that fails."""
    if snap.state in FINAL_STATES:
        return _after_the_end(snap, now)
    if _holds_still(snap, now):
        return ()
    if snap.pause_reason is not None and snap.wish in HOLDING_WISHES:
        return _holding(snap, now)
    if snap.pause_reason is not None:
        return _stopping(snap, now, snap.verdict_at or now)
    if _must_ask(snap, now):
        return (act.Collect(),)
    verdict = judge(snap, now)
    if verdict is not None and verdict.reason == "finished" and snap.has_next_stage:
        verdict = judge_step_up(snap, now)
        if verdict is None:
            return _stepping_up(snap, now)
    if verdict is not None:
        return (act.Conclude(verdict), *_stopping(snap, now, now, verdict))
    return _running(snap, now)


def _holds_still(snap: Snapshot, now: Moment) -> bool:
    """Whether a drill has the instance in hand: paid for up to its lease's end, and not beyond.

    A pause, a cap that was passed and the end of the lease each end the drill, and then all is as
    for any other job.
    """
    instance, lease = snap.instance, snap.lease
    if not snap.spec.drill or instance is None or instance.provider_id is None or lease is None:
        return False
    is_due = snap.wish != "run" or snap.pause_reason is not None or snap.in_breach
    return not is_due and not has_ended(lease, now)


def _must_ask(snap: Snapshot, now: Moment) -> bool:
    """Whether an agent that was alone has switched its instance off, and only its disk knows why.

    Once for each attempt: whatever comes of it, the second time it is the platform's doing.
    """
    instance, lease = snap.instance, snap.lease
    if instance is None or lease is None or snap.collected or snap.wish != "run" or snap.in_breach:
        return False
    was_alone = elapsed_ms(lease.started, lease.end) > snap.spec.lease_ms
    off = instance.was_on and proven_stopped(snap) and not instance.stopped_seen
    return was_alone and off and snap.training.is_alive and not has_ended(lease, now)


# --------------------------------------------------------------------------- while it may run


def _running(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    instance = snap.instance
    if instance is None:
        return _renting(snap, now)
    if instance.provider_id is None:
        return (act.ResolveCreate(),)
    if instance.lent and instance.denied and instance.power is Power.STOPPED:
        return _going_back(snap, instance)
    if instance.stopped_seen:
        return _resuming(snap, now)
    if not instance.was_on and instance.power is Power.STOPPED:
        return _coming_on(snap, now, instance)
    if instance.waits:
        return _queueing(snap, now, instance)
    actions: list[act.Action] = [*leasing(snap, now)]
    if act.Shorten in map(type, actions):
        return tuple(actions)  # the agent is told by the next pass, which knows the new end
    if instance.power is Power.RUNNING and snap.has_ssh and not instance.cardless:
        actions.append(act.EnsureLink())
    if snap.link.state == "attached":
        actions.extend(granting(snap))
        actions.extend(_pulling(snap, only_newest=True))
    actions.append(act.SetState(_running_state(snap)))
    return tuple(actions)


def _running_state(snap: Snapshot) -> str:
    if snap.training.launched_at_ms is not None:
        return "training"
    return "provisioning" if snap.link.state == "none" else "preparing"


def _renting(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """Reserve the first lease, then create; or say that it does not fit, and rent nothing."""
    if snap.retry_at_ms is not None and now.utc_ms < snap.retry_at_ms:
        return (act.SetState("waiting_capacity"),)
    if snap.tariff is None:
        return (act.AskPrice(),)
    if "create" in snap.open_intents:
        return (act.ResolveCreate(),)
    limit = snap.spec.instance.max_price_micros_per_hour
    if limit is not None and snap.tariff.price_micros_per_hour > limit:
        evidence = {"price_micros_per_hour": snap.tariff.price_micros_per_hour, "limit": limit}
        refusal = Verdict("platform", "the price is above max_price_yuan_per_hour", evidence)
        return (act.Conclude(refusal), act.Finish("paused"))
    offer = offer_lease(
        snap.tariff,
        None,
        snap.lease,
        snap.accounts,
        now,
        snap.spec.lease_ms,
        snap.latency_ms,
        FIRST_LEASE_SHORTEST_MS,
    )
    if offer is None:
        refusal = Verdict(
            "budget",
            "not even a first lease fits the budget; nothing was rented",
            {"accounts": account_lines(snap), "latency_s": snap.latency_ms // 1000},
        )
        return (act.Conclude(refusal), act.Finish("paused"))
    grant = act.Grant(offer.length_ms, offer.increment_micros, offer.final, snap.latency_ms)
    if snap.spec.instance.instance_id is not None:
        return (grant, act.Adopt(), act.SetState("provisioning"))
    if not snap.platform.creates_once:
        aside = aside_micros(
            snap.tariff,
            snap.lease,
            snap.accounts,
            offer,
            now,
            snap.platform.double_ms,
            snap.latency_ms,
        )
        grant = replace(grant, aside_micros=aside)
    timer_ms = _timer_length_ms(snap, now, offer.length_ms)
    timer_ms += snap.spec.runs[snap.stage].save_grace_ms
    return (grant, act.Create(timer_after_ms=timer_ms), act.SetState("provisioning"))


def _timer_length_ms(snap: Snapshot, now: Moment, lease_ms: int) -> int:
    """When the timer that goes with the create call is to stop it: with the lease.

    One that can never be moved would end every run with its first lease: it is set to where the
    caps end, a last resort and no lease.
    """
    if not snap.platform.timer_is_fixed or snap.tariff is None:
        return lease_ms
    latency_ms = snap.latency_ms
    reach = runway_ms(snap.tariff, None, snap.lease, snap.accounts, now, LONG_LEASE_MS, latency_ms)
    return max(reach or 0, lease_ms)


def _resuming(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """Switch a paused instance on again, in the order of the first rent: reserve, then call."""
    if snap.retry_at_ms is not None and now.utc_ms < snap.retry_at_ms:
        return (act.SetState("waiting_capacity"),)
    if snap.tariff is None:
        return (act.AskPrice(),)
    offer = offer_lease(
        snap.tariff,
        None,
        snap.lease,
        snap.accounts,
        now,
        short_lease_ms(snap, now),
        snap.latency_ms,
        FIRST_LEASE_SHORTEST_MS,
    )
    if offer is None:
        evidence = {"accounts": account_lines(snap), "latency_s": snap.latency_ms // 1000}
        refusal = Verdict("budget", "not even one more lease fits the budget", evidence)
        fetches = snap.pause_reason is not None
        said = act.Fetched(refusal.text) if fetches else act.Conclude(refusal)
        if not proven_stopped(snap):  # the last answer was of unknown: the next passes prove it
            return (said,)
        return (said, act.Finish(final_state(snap) if fetches else "paused"))
    grant = act.Grant(offer.length_ms, offer.increment_micros, offer.final, snap.latency_ms)
    end_ms = now.utc_ms + offer.length_ms
    grace_ms = snap.spec.runs[snap.stage].save_grace_ms
    has_timer = snap.platform.timer_min_lead_ms is not None
    timer = (act.ArmTimer(end_ms + grace_ms, end_ms),) if has_timer else ()
    return (grant, act.PowerOn(), act.SetState("provisioning"), *timer)


def _coming_on(snap: Snapshot, now: Moment, instance: InstanceFacts) -> tuple[act.Action, ...]:
    """Not on yet after a start call: refused, lost, or simply under way."""
    if snap.retry_at_ms is not None:
        rest = (act.Rest(),) if _is_off(snap, instance) else ()
        return (*rest, act.SetState("waiting_capacity"))
    called = instance.last_call
    if called is not None and elapsed_ms(called, now) > START_RETRY_MS:
        return (act.PowerOn(),)
    return (*leasing(snap, now), act.SetState("provisioning"))


def _going_back(snap: Snapshot, instance: InstanceFacts) -> tuple[act.Action, ...]:
    """What was taken unasked is not waited for: it goes back once its refused start is past."""
    return (act.LetGo() if _is_off(snap, instance) else act.SetState("waiting_capacity"),)


def _is_off(snap: Snapshot, instance: InstanceFacts) -> bool:
    """Whether the start that was refused has surely switched nothing on."""
    return _stop_proof(snap).holds(off_run(instance.reads), instance.last_call)


def _queueing(snap: Snapshot, now: Moment, instance: InstanceFacts) -> tuple[act.Action, ...]:
    """Told to start, it waits for a card that somebody else has: paid for briefly, then called off.

    A start that came true in the small hours would find nobody reserving for it.
    """
    called = instance.last_call
    if called is None or elapsed_ms(called, now) >= QUEUE_PATIENCE_MS:
        return (act.TakeBack(), act.SetState("waiting_capacity"))
    return (*leasing(snap, now), act.SetState("waiting_capacity"))


def _holding(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """Have an ended job's instance on under a lease: to bring its results home, or for a visit."""
    instance = snap.instance
    if instance is None or instance.provider_id is None:
        return (act.Fetched("nothing was ever rented"),)
    over = why_over(snap, now, instance)
    if over is not None:
        return (act.Fetched(over),)
    if instance.stopped_seen:
        return _resuming(snap, now)
    if not instance.was_on and instance.power is Power.STOPPED:
        return _coming_on(snap, now, instance)
    if instance.waits:
        return _queueing(snap, now, instance)
    actions: list[act.Action] = [*leasing(snap, now)]
    if act.Shorten in map(type, actions):
        return tuple(actions)  # the agent is told by the next pass, which knows the new end
    if instance.power is Power.RUNNING and snap.has_ssh:
        actions.append(act.EnsureLink())
    if snap.link.state == "attached":
        actions.extend(_forestalling(snap))
        actions.extend(granting(snap))
        actions.extend(_pulling(snap, only_newest=False) if snap.visit is None else ())
    return (*actions, act.SetState("preparing"))


def _forestalling(snap: Snapshot) -> tuple[act.Action, ...]:
    """A stop before the first lease of a fetch: an attempt that never began must not begin now.

    Its agent starts the training under the first lease that it gets, unless it was stopped before.
    """
    begun = snap.visit is not None or snap.training.launched_at_ms is not None
    return () if begun or snap.link.stop_sent else (act.Save(0),)


def _stepping_up(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """Bring the stage's adapter home, then go on; what it costs stays under the lease."""
    going = leasing(snap, now)
    if act.Shorten in map(type, going):
        return going
    if snap.link.state != "attached":
        return (*going, act.EnsureLink())
    going = (*going, *granting(snap))
    adapters = [a for a in snap.artifacts if a.kind == "adapter" and not a.pulled and not a.failed]
    if adapters:
        return (*going, *_pulling(snap, only_newest=True))
    return (*going, act.NextStage())


def _pulling(snap: Snapshot, *, only_newest: bool) -> tuple[act.Action, ...]:
    """Bring home what is complete over there and not here yet, the adapter first."""
    waiting = [a for a in snap.artifacts if not a.pulled and not a.failed]
    if any(artifact.pulling for artifact in waiting):
        return ()
    if only_newest and waiting:
        waiting = [max(waiting, key=lambda a: (a.kind == "adapter", a.step))]
    waiting.sort(key=lambda a: (a.kind == "adapter", a.step), reverse=True)
    return tuple(act.Pull(artifact.id) for artifact in waiting[:1])


# --------------------------------------------------------------------------- while it must stop


def _stopping(
    snap: Snapshot, now: Moment, since: Moment, verdict: Verdict | None = None
) -> tuple[act.Action, ...]:
    """Save, bring home, switch off, and believe it only when it was seen (I4). Never gives up."""
    instance = snap.instance
    if instance is None:
        return (act.Finish(final_state(snap, verdict)),)
    if instance.provider_id is None:
        return (act.ResolveCreate(),)
    if proven_stopped(snap) or instance.attested:
        return (act.Finish(final_state(snap, verdict)),)
    if off_run(instance.reads) and _may_be_believed_off(instance):
        return (act.SetState("pausing"),)  # seen off once; the next read decides
    saving = _saving(snap, now, since, verdict)
    if saving is not None:
        return (*saving, act.SetState("saving"))
    return (*_switching_off(snap, now), act.SetState("pausing"))


def _saving(
    snap: Snapshot, now: Moment, since: Moment, verdict: Verdict | None
) -> tuple[act.Action, ...] | None:
    """What is still to do before power-off, or None when nothing is or time is up."""
    instance = snap.instance
    if instance is None or instance.power is not Power.RUNNING or snap.visit is not None:
        return None
    run = snap.spec.runs[snap.stage]
    waited_ms = elapsed_ms(since, now)
    reason = verdict.reason if verdict is not None else snap.pause_reason
    missing = [a for a in snap.artifacts if not a.pulled and not a.failed]
    lease_left = snap.lease is not None and not has_passed(snap.lease.end, now)
    may_pull = waited_ms <= run.save_grace_ms + PULL_PATIENCE_MS and lease_left and missing
    if snap.link.state != "attached":
        hopeless = reason in ("blind", "platform") or not snap.has_ssh
        is_worth_it = waited_ms <= ATTACH_PATIENCE_MS if snap.training.is_alive else may_pull
        return (act.EnsureLink(),) if is_worth_it and not hopeless else None
    if is_silent(snap, now):
        return None
    if snap.training.is_alive and waited_ms <= run.save_grace_ms:
        return (act.Save(run.save_grace_ms - waited_ms),) if not snap.link.stop_sent else ()
    if not snap.training.is_alive and may_pull:
        return _pulling(snap, only_newest=False)
    return None


def _switching_off(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """The stop call: at once, then again with back-off for as long as it takes, ever louder."""
    instance = snap.instance
    assert instance is not None, "there is something to switch off"
    if instance.stop_calls == 0 or instance.last_call is None:
        return (act.StopPower(attempt=1),)
    since_ms = elapsed_ms(instance.last_call, now)
    wait_ms = STOP_RETRY_MS[min(instance.stop_calls, len(STOP_RETRY_MS) - 1)]
    if instance.stop_accepted:
        wait_ms = max(wait_ms, snap.platform.stop_latency_ms)
    if since_ms < wait_ms:
        return ()
    attempt = instance.stop_calls + 1
    return (act.Alarm("stop_not_confirmed", attempt), act.StopPower(attempt))


def _may_be_believed_off(instance: InstanceFacts) -> bool:
    """Whether "off" can mean stopped: not while it may only be "not on yet" after a start call."""
    return instance.was_on or instance.stop_calls > 0 or instance.absent


def proven_stopped(snap: Snapshot) -> bool:
    """Whether invariant I4 lets us say "stopped"."""
    instance = snap.instance
    if instance is None:
        return False
    if instance.stopped_seen:
        return bool(off_run(instance.reads))  # proven before, and not switched on since
    if not _may_be_believed_off(instance):
        return False
    return _stop_proof(snap).holds(off_run(instance.reads), instance.last_call)


def _stop_proof(snap: Snapshot) -> StopProof:
    return StopProof(apart_ms=max(snap.platform.poll_interval_ms, snap.platform.cache_age_ms))


def final_state(snap: Snapshot, verdict: Verdict | None = None) -> str:
    """The final state that a pause reason leads to."""
    reason = verdict.reason if verdict is not None else snap.pause_reason
    if reason == "finished":
        return "finished"
    if reason == "failed":
        return "failed"
    return "paused"


def _after_the_end(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """Nothing runs any more: release if asked to, and stop what someone else switched on."""
    instance = snap.instance
    if snap.state == "released":
        return ()
    if instance is None:
        return (act.Finish("released"),) if snap.wish == "release" else ()
    if instance.provider_id is None:
        return ()
    if instance.power.seems_on and not instance.absent:
        return _still_on(snap, instance, now)
    if snap.wish == "release":
        return (act.Release(),) if not instance.absent else (act.Finish("released"),)
    return (act.GiveBack(),) if _is_to_be_given_back(snap, instance) else ()


def _still_on(snap: Snapshot, instance: InstanceFacts, now: Moment) -> tuple[act.Action, ...]:
    """Someone else switched it on: it is stopped, and released at once if that is the wish.

    Not by an old answer: once it is gone nobody says any more when its rent had ended. Unless the
    platform no longer says so now either.
    """
    gives_back = (act.Release(),) if snap.wish == "release" else ()
    if snap.fresh_read:
        alarm = act.Alarm("running_without_lease", instance.stop_calls)
        return (alarm, *_switching_off(snap, now), *gives_back)
    patience_ms = POLLS_LOST * snap.platform.poll_interval_ms
    waits = instance.reads and elapsed_ms(instance.reads[-1].begun, now) < patience_ms
    return () if waits else gives_back


def _is_to_be_given_back(snap: Snapshot, instance: InstanceFacts) -> bool:
    """Whether the job file has the disk deleted now: finished, and seen stopped.

    A wish other than to run goes before it: a person wants the disk, or it was kept once already.
    """
    asked = snap.spec.instance.after_finish == "release" and snap.wish == "run"
    return asked and snap.state == "finished" and instance.stopped_seen and not instance.absent
