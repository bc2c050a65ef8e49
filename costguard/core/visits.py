"""When an ended job's instance, switched on once more, goes off again: after a pull, or a visit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.core.leasing import (
    RENEWAL_GAIN_MS,
    is_silent,
    renewal,
    save_lead_ms,
    shortening,
    shortfall_micros,
)
from costguard.core.moment import MS_PER_S, Moment, elapsed_ms, has_passed, ms_until
from costguard.core.power import off_run

if TYPE_CHECKING:
    from costguard.core.lease import Lease
    from costguard.core.snapshot import InstanceFacts, Snapshot, Visit

TOLD_WITHIN_MS = 3_000  # an agent that is attached has told its journal by then
VISITOR_SILENT_MS = 90_000  # a visitor gives a sign every few seconds for as long as they stay


def why_over(snap: Snapshot, now: Moment, instance: InstanceFacts) -> str | None:
    """Why it is not to be on any longer, in words; None while it is."""
    visit = snap.visit
    if visit is not None and elapsed_ms(visit.heard, now) > VISITOR_SILENT_MS:
        return "the visitor has gone without a word"
    if instance.stopped_seen:
        return None  # not switched on yet
    if instance.absent or (instance.was_on and len(off_run(instance.reads)) >= 2):
        return "the instance was found switched off"
    if snap.link.state == "refused":
        return snap.link.detail
    started = instance.started_call
    reached = visit is not None and snap.link.heard is not None
    within_ms = snap.spec.guards.prepare_within_ms
    if not reached and (started is None or elapsed_ms(started, now) > within_ms):
        return "the instance could not be asked in time"
    if visit is not None and visit.until is not None and has_passed(visit.until, now):
        return _time_is_over(visit)
    return _lease_is_over(snap, now) or (None if visit is not None else _all_is_home(snap, now))


def _lease_is_over(snap: Snapshot, now: Moment) -> str | None:
    """Why the money for it is about to end, or has ended, or must not be spent."""
    if snap.in_breach:
        over = (account.scope for account in snap.accounts if account.in_breach)
        return f"spent past the cap: {', '.join(over)}"
    lease, ends = snap.lease, snap.armed_end
    if ends is None or lease is None:
        return "no lease is open"
    if lease.end.boot_id != now.boot_id and renewal(snap, now) is None:
        return "after a reboot of this machine no lease could be had"
    if ends.utc_ms < lease.started.utc_ms:
        ends = lease.end  # the timer is being armed
    if ms_until(ends, now) > save_lead_ms(snap):
        return _price_is_too_high(snap, now, lease)
    if snap.visit is not None and snap.visit.until is not None and not is_silent(snap, now):
        beyond_ms = ms_until(snap.visit.until, now) - ms_until(lease.end, now)
        if beyond_ms <= RENEWAL_GAIN_MS:  # it was as long as its visit lets it be
            return _time_is_over(snap.visit)
        if lease.final:
            return "the budget reaches no further"
    return "the lease ran out"


def _price_is_too_high(snap: Snapshot, now: Moment, lease: Lease) -> str | None:
    """I3: where the open lease no longer reaches its own end, and none that does can be had."""
    if shortfall_micros(snap, now) <= 0 or renewal(snap, now) is not None:
        return None
    if shortening(snap, now, lease) is not None:
        return None  # it is cut, and goes on for as long as there is money
    return "at the new price the lease does not fit the budget"


def _time_is_over(visit: Visit) -> str:
    seconds = visit.length_ms // MS_PER_S
    length = f"{seconds} s" if seconds < 120 else f"{seconds // 60} minutes"
    return f"its time, {length}, is over"


def _all_is_home(snap: Snapshot, now: Moment) -> str | None:
    """That nothing is left to bring home, once the agent has told what there is."""
    since = snap.link.since
    if snap.link.state != "attached" or since is None or elapsed_ms(since, now) < TOLD_WITHIN_MS:
        return None
    missing = [each.name for each in snap.artifacts if not each.pulled and not each.failed]
    return None if missing else "everything is home that can be had"
