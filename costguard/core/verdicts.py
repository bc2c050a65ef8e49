"""Why a run should end now: the first reason found is the one that is kept."""

from __future__ import annotations

from costguard.core.exits import ended_on_request, exit_text
from costguard.core.gate import judge_gate
from costguard.core.guards import judge_training
from costguard.core.lease import Lease, has_ended, is_due
from costguard.core.leasing import is_silent, renewal, save_lead_ms, shortening, shortfall_micros
from costguard.core.moment import Moment, elapsed_ms, has_passed, ms_until
from costguard.core.power import Power, off_run
from costguard.core.snapshot import Snapshot, Verdict

BARE_READS = 2  # one read may come before the cards are listed


def judge(snap: Snapshot, now: Moment) -> Verdict | None:
    """Why the run should end now, or None. The first reason found is the one that is kept."""
    if snap.wish != "run":
        return Verdict("user", f"{snap.wish} was asked for", {"wish": snap.wish})
    if snap.in_breach:
        over = [account.scope for account in snap.accounts if account.in_breach]
        return Verdict("budget", f"spent past the cap: {', '.join(over)}", {"breach": over})
    if snap.instance is not None and snap.instance.stopped_seen:
        return None  # a resumed job whose instance is still to be switched on
    if snap.training.verdict is not None:
        return snap.training.verdict  # the agent's own, given while we were not heard
    run = snap.spec.runs[snap.stage]
    end = snap.training.exit
    if end is not None and ended_on_request(end):
        return _stopped_without_us(snap, now, exit_text(end))
    verdict = judge_training(snap.training, snap.spec.guards, expects_adapter=run.expects_adapter)
    return (
        verdict or _judge_platform(snap, now) or _judge_lease(snap, now) or _judge_line(snap, now)
    )


def judge_step_up(snap: Snapshot, now: Moment) -> Verdict | None:
    """Why a job whose stage has finished must not go on to the next one, or None."""
    instance = snap.instance
    if instance is not None and instance.was_on and len(off_run(instance.reads)) >= 2:
        return _stopped_without_us(snap, now, "the instance was found switched off")
    running_out = _judge_lease(snap, now) or _judge_line(snap, now)
    if running_out is not None:
        return running_out
    gate = judge_gate(snap.training, snap.spec.stages[snap.stage])
    return gate if snap.spec.guards.on_gate == "pause" else None


def _judge_platform(snap: Snapshot, now: Moment) -> Verdict | None:
    instance = snap.instance
    if instance is None or instance.provider_id is None:
        return None
    evidence = {"power": instance.power.value}
    if instance.absent:
        return Verdict("platform", "the platform no longer knows the instance", evidence)
    if instance.was_on and len(off_run(instance.reads)) >= 2:
        return _stopped_without_us(snap, now, "the instance was found switched off")
    if instance.cardless >= BARE_READS and not snap.training.is_alive:
        text = "it came up without a GPU: its host has none free; resume it later, or release it"
        return Verdict("platform", text, {**evidence, "cards": 0}, save=False)
    limits = snap.spec.guards
    started = instance.started_call or snap.created
    if snap.stage_since is not None and snap.stage_since.utc_ms > started.utc_ms:
        started = snap.stage_since
    if not snap.training.is_alive and elapsed_ms(started, now) > limits.prepare_within_ms:
        evidence["link"] = snap.link.state
        evidence["detail"] = snap.link.detail
        text = f"training could not be started within {limits.prepare_within_ms // 60_000} minutes"
        return Verdict("platform", text, evidence)
    if snap.lease is not None and snap.retry_at_ms is None:
        never_on = not instance.was_on and instance.power is Power.STOPPED
        if never_on and has_ended(snap.lease, now):
            return Verdict("platform", "it was not switched on within its lease", evidence)
    if snap.link.state == "refused":
        return Verdict("platform", snap.link.detail, {"link": "refused"}, save=False)
    return None


def _stopped_without_us(snap: Snapshot, now: Moment, text: str) -> Verdict:
    """The instance or its agent stopped by itself: the lease ran out unrenewed, or it was taken.

    A renewal that never reached the agent, as when this daemon died in between, was none to it.
    """
    evidence: dict[str, object] = {"lease_ended": False}
    if snap.lease is not None and snap.lease.final and has_ended(snap.lease, now):
        evidence["lease_ended"] = True
        return Verdict("budget", f"{text} at the end of the last lease", evidence, save=False)
    until_ms = None if snap.instance is None else snap.instance.agent_until_ms
    agents = until_ms is not None and until_ms <= now.utc_ms
    if agents or (snap.armed_end is not None and has_passed(snap.armed_end, now)):
        evidence["lease_ended"] = True
        return Verdict("blind", f"{text} after its lease ran out unrenewed", evidence, save=False)
    if is_silent(snap, now):
        return Verdict("blind", f"{text} after nothing was heard of it", evidence, save=False)
    return Verdict("platform", text, evidence, save=False)


def _judge_lease(snap: Snapshot, now: Moment) -> Verdict | None:
    """Whether the money for running on is about to end, or has ended."""
    instance, lease, end = snap.instance, snap.lease, snap.armed_end
    if instance is None or not instance.power.may_charge or instance.provider_id is None:
        return None
    if lease is None or end is None:
        if instance.interval is None:
            return None
        return Verdict("budget", "running was found that no lease covers", {"lease": None})
    if lease.end.boot_id != now.boot_id and renewal(snap, now) is None:
        return Verdict("budget", "after a reboot of this machine no lease could be had", {})
    if end.utc_ms < lease.started.utc_ms and not is_due(lease, now):
        end = lease.end  # a first lease that no timer is armed for yet: ours alone to keep
    left_ms = ms_until(end, now)
    if left_ms > save_lead_ms(snap):
        if shortfall_micros(snap, now) <= 0 or renewal(snap, now) is not None:
            return None
        if shortening(snap, now, lease) is not None:
            return None  # a long lease is cut, and the run goes on
        text = "at the new price the lease does not fit the budget"
        return Verdict("budget", text, {"accounts": account_lines(snap)})
    return _why_it_runs_out(snap, now, lease, end)


def _why_it_runs_out(snap: Snapshot, now: Moment, lease: Lease, end: Moment) -> Verdict:
    """What kept the lease, which is about to end or has ended, from being renewed."""
    evidence: dict[str, object] = {
        "lease_left_s": ms_until(end, now) // 1000,
        "accounts": account_lines(snap),
    }
    if is_silent(snap, now):
        return Verdict("blind", "nothing was heard up to the lease's end", evidence)
    if has_ended(lease, now) and elapsed_ms(lease.end, now) > snap.platform.poll_interval_ms * 2:
        return Verdict("blind", "the lease had ended before anyone looked", evidence)
    if end.utc_ms < lease.end.utc_ms:
        return Verdict("platform", "the platform's stop timer could not be re-armed", evidence)
    if renewal(snap, now) is not None:
        return Verdict("platform", "the lease could not be renewed in time", evidence)
    return Verdict("budget", "the next lease does not fit the budget", evidence)


def _judge_line(snap: Snapshot, now: Moment) -> Verdict | None:
    limits = snap.spec.guards
    launched = snap.training.launched_at_ms
    agent_now = snap.training.agent_now_ms
    if limits.max_ms is not None and launched is not None and agent_now is not None:
        ran_ms = agent_now - launched
        if ran_ms >= limits.max_ms:
            evidence = {"ran_s": ran_ms // 1000, "limit_s": limits.max_ms // 1000}
            return Verdict(
                "max_hours", f"training has run for {ran_ms // 60_000} minutes", evidence
            )
    heard = snap.link.heard
    if heard is not None and elapsed_ms(heard, now) > limits.blind_after_ms:
        silent_s = elapsed_ms(heard, now) // 1000
        evidence = {"silent_s": silent_s, "limit_s": limits.blind_after_ms // 1000}
        return Verdict("blind", f"nothing was heard for {silent_s} s", evidence)
    return None


def account_lines(snap: Snapshot) -> list[dict[str, object]]:
    """Every scope's figures, as the evidence of a verdict keeps them."""
    return [
        {
            "scope": account.scope,
            "cap_micros": account.cap_micros,
            "posted_micros": account.posted_micros,
            "pending_micros": account.pending_micros,
            "hold_micros": account.hold_micros,
        }
        for account in snap.accounts
    ]
