"""Leases while a job may run: renewed at half, cut to lowered caps, told to the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.core import actions as act
from costguard.core.lease import (
    Lease,
    affordable_ms,
    is_due,
    needed_micros,
    offer_lease,
    runway_ms,
)
from costguard.core.moment import Moment, elapsed_ms, ms_until

if TYPE_CHECKING:
    from costguard.core.snapshot import Snapshot

RENEWAL_GAIN_MS = 1_000  # a renewal that gains less is not worth a call
SAVE_LEAD_MS = 5_000  # how long before the last lease's end the saving begins
LONG_LEASE_MS = 30 * 86_400_000  # beyond any run; the budget is what ends it


def goes_alone(snap: Snapshot) -> bool:
    """Whether the agent can be trusted with all that the budget allows, should we fall silent.

    It must be able to stop the meter by itself, and be there. Where other jobs live under the
    same caps a long lease would take what they need, so each keeps to short ones.
    """
    return (
        snap.spec.long_leases
        and snap.pause_reason is None  # a pull or a visit trains nothing that could be judged
        and snap.platform.in_guest_stop_proven
        and snap.link.state == "attached"
        and snap.training.is_alive
        and not snap.shares_caps
    )


def leasing(snap: Snapshot, now: Moment) -> tuple[act.Action, ...]:
    """Renew at half, and bring the platform's timer up to what is reserved."""
    lease, end, instance = snap.lease, snap.armed_end, snap.instance
    if lease is None or end is None or instance is None:
        return ()
    if instance.was_on and not instance.power.may_charge:
        return ()  # found off: the next read decides why, and nothing is granted meanwhile
    grace_ms = snap.spec.runs[snap.stage].save_grace_ms
    has_timer = snap.platform.timer_min_lead_ms is not None
    shorter = shortening(snap, now, lease)
    if shorter is not None:
        end_ms = now.utc_ms + shorter.length_ms
        return (shorter, act.ArmTimer(end_ms + grace_ms, end_ms)) if has_timer else (shorter,)
    if end.utc_ms < lease.end.utc_ms and has_timer:
        end_ms = now.utc_ms + ms_until(lease.end, now)  # the wall clock may have been set since
        return (act.ArmTimer(end_ms + grace_ms, lease.end.utc_ms),)
    outgrown = goes_alone(snap) and elapsed_ms(lease.started, lease.end) <= snap.spec.lease_ms
    calm = not is_due(lease, now) and lease.end.boot_id == now.boot_id and not outgrown
    if calm and shortfall_micros(snap, now) <= 0:
        return ()
    grant = renewal(snap, now)
    if grant is None:
        return ()
    if not has_timer:
        return (grant,)
    end_ms = now.utc_ms + grant.length_ms
    return (grant, act.ArmTimer(end_ms + grace_ms, end_ms))


def renewal(snap: Snapshot, now: Moment) -> act.Grant | None:
    """The next lease if it is time for one and it fits; None leaves the open one to run out."""
    lease, instance = snap.lease, snap.instance
    if lease is None or instance is None or snap.tariff is None or is_silent(snap, now):
        return None
    rebooted = lease.end.boot_id != now.boot_id
    left_ms = 0 if rebooted else ms_until(lease.end, now)
    offer = offer_lease(
        snap.tariff,
        instance.interval,
        lease,
        snap.accounts,
        now,
        max(_wanted_ms(snap, now), left_ms),  # never less than the open one still has
        snap.latency_ms,
        shortest_ms=0,
    )
    if offer is None:
        return None
    lead_ms = snap.platform.timer_min_lead_ms
    gain_ms = 0 if shortfall_micros(snap, now) > 0 else RENEWAL_GAIN_MS
    if offer.length_ms < left_ms + gain_ms:
        return None
    if lead_ms is not None and offer.length_ms < lead_ms:
        return None
    return act.Grant(offer.length_ms, offer.increment_micros, offer.final, snap.latency_ms)


def _wanted_ms(snap: Snapshot, now: Moment) -> int:
    """How long a lease to ask for."""
    return LONG_LEASE_MS if goes_alone(snap) else short_lease_ms(snap, now)


def short_lease_ms(snap: Snapshot, now: Moment) -> int:
    """The job's usual lease; in a visit never beyond its end, so that every enforcer keeps it."""
    if snap.visit is None:
        return snap.spec.lease_ms
    left_ms = snap.visit.length_ms
    if snap.visit.until is not None and snap.instance is not None:
        off_again = snap.instance.stopped_seen  # its time begins anew when it is switched on
        left_ms = left_ms if off_again else ms_until(snap.visit.until, now)
    return min(snap.spec.lease_ms, left_ms)


def shortening(snap: Snapshot, now: Moment, lease: Lease) -> act.Shorten | None:
    """The lease cut to what the caps allow now, where they reach less far than when it was granted.

    They were lowered; or, under a long lease, the price rose or the rounding of a quantum came out
    dearer than reserved: what spans the whole budget has nothing to draw on, and is cut instead.
    """
    if snap.tariff is None or snap.instance is None:
        return None
    interval, latency_ms = snap.instance.interval, snap.latency_ms
    left_ms = ms_until(lease.end, now)
    length_ms = affordable_ms(snap.tariff, interval, lease, snap.accounts, now, latency_ms)
    if (
        elapsed_ms(lease.started, lease.end) > snap.spec.lease_ms
        and shortfall_micros(snap, now) > 0
    ):
        reach_ms = runway_ms(snap.tariff, interval, lease, snap.accounts, now, left_ms, latency_ms)
        length_ms = min(length_ms, max(reach_ms or 0, 0))
    return act.Shorten(length_ms) if length_ms < left_ms else None


def shortfall_micros(snap: Snapshot, now: Moment) -> int:
    """What the open lease lacks to reach its own end: more than 0 only after a price rise."""
    lease, instance = snap.lease, snap.instance
    if lease is None or instance is None or snap.tariff is None:
        return 0
    left_ms = ms_until(lease.end, now)
    needed = needed_micros(snap.tariff, instance.interval, now, left_ms, snap.latency_ms)
    return needed - lease.remaining_micros


def granting(snap: Snapshot) -> tuple[act.Action, ...]:
    """Answer the newest heartbeat with the lease that is reserved and armed."""
    beat = snap.link.heartbeat
    if beat is None or snap.lease is None or beat == snap.link.leased_heartbeat:
        return ()
    return (act.SendLease(beat, alone=goes_alone(snap)),)


def save_lead_ms(snap: Snapshot) -> int:
    """How long before the end of a lease that is not renewed the saving begins."""
    return min(SAVE_LEAD_MS, snap.spec.runs[snap.stage].save_grace_ms)


def is_silent(snap: Snapshot, now: Moment) -> bool:
    """Whether the agent was heard before and has been silent for too long: blind, not idle."""
    heard = snap.link.heard
    return heard is not None and elapsed_ms(heard, now) > snap.spec.guards.silent_after_ms
