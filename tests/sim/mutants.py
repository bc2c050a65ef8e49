"""Planted faults: each breaks one rule of costguard's own code, as a plausible mistake would."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from costguard.core import actions, decide as core_decide, guards, lease, leasing, meter
from costguard.core.moment import elapsed_ms
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import Snapshot
from costguard.core.stalls import stalled
from costguard.core.tariff import Tariff
from costguard.daemon import act, asking, metering, plan, rent
from costguard.sim import books, lean, lean_act, lean_meter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest


OFFER = tuple(inspect.signature(lease.offer_lease).parameters)


@dataclass(frozen=True)
class Mutant:
    """A planted fault: how it is planted, on which tier, and within how many seeds it is caught."""

    plant: Callable[[pytest.MonkeyPatch], None]
    invariants: frozenset[str]
    seeds: int = 10
    first_seed: int = 0
    tier: int = 1
    days: float = 3.0
    focus: Mapping[str, float] | None = None  # troubles that this fault needs to come to light
    edition: int = 1  # of what is drawn


def believe_the_stop_call(patch: pytest.MonkeyPatch) -> None:
    """Settle, and show "stopped", as soon as the stop call was accepted."""
    proven = core_decide.proven_stopped

    def believed(snap: Snapshot) -> bool:
        return proven(snap) or (snap.instance is not None and snap.instance.stop_accepted)

    for module in (core_decide, lean_act, act):
        patch.setattr(module, "proven_stopped", believed)


def forget_latency(patch: pytest.MonkeyPatch) -> None:
    """Reserve up to the lease's end, not up to the end plus L."""
    offer = lease.offer_lease

    def short(*args: Any, **options: Any) -> Any:
        named = dict(zip(OFFER, args, strict=False), **options)
        return offer(**{**named, "latency_ms": 0})

    for module in (core_decide, leasing):
        patch.setattr(module, "offer_lease", short)
    # What is set aside for a duplicate would cover the first lease's L.
    patch.setattr(core_decide, "aside_micros", lambda *_: 0)


def charge_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """Elapsed time is what the wall clock says, whoever has set it."""
    patch.setattr(meter, "elapsed_ms", lambda since, now: max(now.utc_ms - since.utc_ms, 0))


def arm_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """A stop timer is set by our own wall clock, whatever the platform's says."""
    patch.setattr(asking, "ahead_ms", lambda _provider, _now: 0)


def price_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """The platform's nights and hours are taken to be those of our own wall clock."""
    patch.setattr(Tariff, "told_ahead", lambda tariff, _ahead_ms: tariff)


def come_back_at_the_next_poll(patch: pytest.MonkeyPatch) -> None:
    """The end of a first lease makes no pass due."""
    patch.setattr(lean, "granted_ms", lambda _actions: [])


def retry_a_create(patch: pytest.MonkeyPatch) -> None:
    """An unclear create call is taken to have failed, and made again."""
    running = core_decide._running

    def again(snap: Snapshot, now: Any) -> Any:
        if snap.instance is None or snap.instance.provider_id is not None or snap.lease is None:
            return running(snap, now)
        return (actions.Create(timer_after_ms=snap.spec.lease_ms),)

    patch.setattr(core_decide, "_running", again)


def take_unknown_for_stopped(patch: pytest.MonkeyPatch) -> None:
    """An answer of "unknown" counts as off."""
    off = (Power.STOPPED, Power.RELEASED, Power.UNKNOWN)
    patch.setattr(Power, "may_charge", property(lambda self: self not in off))


def take_off_for_free(patch: pytest.MonkeyPatch) -> None:
    """What is off counts as stopped, though the platform says that it goes on charging."""
    off = (Power.STOPPED, Power.RELEASED, Power.OFF_BILLING)
    patch.setattr(Power, "may_charge", property(lambda self: self not in off))
    patch.setattr(PowerRead, "is_charging", property(lambda self: self.power not in off))


def renew_before_the_timer_is_read_back(patch: pytest.MonkeyPatch) -> None:
    """The agent is granted what is reserved, whatever the platform's timer reads back."""
    for module in (rent, act, lean_act):
        patch.setattr(module, "is_armed", lambda *_: True)


def count_a_reservation_twice(patch: pytest.MonkeyPatch) -> None:
    """What a lease has used up still counts as held, so that renewals reserve too little."""
    offer = lease.offer_lease

    def generous(tariff: Any, interval: Any, held: Any, *rest: Any, **options: Any) -> Any:
        if held is not None and interval is not None:
            held = replace(held, reserved_micros=held.reserved_micros + interval.posted_micros)
        return offer(tariff, interval, held, *rest, **options)

    for module in (core_decide, leasing):
        patch.setattr(module, "offer_lease", generous)


def ignore_a_price_rise(patch: pytest.MonkeyPatch) -> None:
    """An interval is charged at the price that it began with."""
    for module in (metering, lean_meter):
        patch.setattr(module, "same_terms", lambda *_: True)


def forget_the_disk(patch: pytest.MonkeyPatch) -> None:
    """Nothing of the cap is held for keeping the disk."""
    for module in (act, lean_act):
        patch.setattr(module, "hold_micros", lambda *_: 0)


def stall_in_every_phase(patch: pytest.MonkeyPatch) -> None:
    """A download or an evaluation has the patience of a training step."""

    def hasty(facts: Any, limits: Any) -> Any:
        return stalled(replace(facts, phase="train", steps=()), limits)

    planted = tuple(hasty if guard is stalled else guard for guard in guards.GUARDS)
    patch.setattr(guards, "GUARDS", planted)


def give_up_stopping(patch: pytest.MonkeyPatch) -> None:
    """Three stop calls have to be enough."""
    switching_off = core_decide._switching_off

    def tired(snap: Snapshot, now: Any) -> Any:
        tries = 0 if snap.instance is None else snap.instance.stop_calls
        return () if tries >= 3 else switching_off(snap, now)

    patch.setattr(core_decide, "_switching_off", tired)


def leave_duplicates(patch: pytest.MonkeyPatch) -> None:
    """A second machine that one call made is seen in lists, and nothing is done about it."""
    for module in (lean_act, lean):
        patch.setattr(module, "take_strays", lambda host: None, raising=False)
    patch.setattr(lean_act, "take_stray", lambda host, parent, view: None)


def keep_quiet_about_overruns(patch: pytest.MonkeyPatch) -> None:
    """What no lease covered is booked, and nobody is told."""
    patch.setattr(metering, "_report_overrun", lambda *_: None)


def ask_seldom(patch: pytest.MonkeyPatch) -> None:
    """The platform is asked every fourth poll."""
    poll_ms = lean.LeanHost._poll_ms
    patch.setattr(lean.LeanHost, "_poll_ms", lambda host, job: 4 * poll_ms(host, job))


def take_unlisted_for_unmade(patch: pytest.MonkeyPatch) -> None:
    """An unclear create that the first list does not show is given up, and made anew."""
    patch.setattr(lean_act, "VISIBLE_WITHIN_MS", 0)


def forget_an_open_create(patch: pytest.MonkeyPatch) -> None:
    """A daemon that died between the create and its outcome begins anew, and asks nobody."""
    boot = lean.LeanHost.boot

    def forgetful(host: lean.LeanHost) -> None:
        for job in host.jobs.values():
            if job.provider_id is None:
                job.tag, job.intents = None, frozenset()
        boot(host)

    patch.setattr(lean.LeanHost, "boot", forgetful)


def take_a_refusal_for_final(patch: pytest.MonkeyPatch) -> None:
    """A stop call that the platform refused is not made again."""
    stop = lean_act.HANDLERS[actions.StopPower]
    refused: set[int] = set()

    def meek(host: lean.LeanHost, job: lean.LeanJob, snap: Snapshot, action: Any) -> None:
        counts = host.world.faults.counts
        before = counts["stop_refused"]
        if id(job) not in refused:
            stop(host, job, snap, action)
        if counts["stop_refused"] > before:
            refused.add(id(job))

    patch.setitem(lean_act.HANDLERS, actions.StopPower, meek)


def charge_twice(patch: pytest.MonkeyPatch) -> None:
    """At the end of an interval all of it is charged again."""
    charge_to = lean_meter._charge_to

    def again(*args: Any, close: bool = False) -> None:
        host, job, interval, to_ms = args
        if close:
            interval = replace(interval, posted_micros=0)
        charge_to(host, job, interval, to_ms, close=close)

    patch.setattr(lean_meter, "_charge_to", again)


def charge_beyond_the_lease(patch: pytest.MonkeyPatch) -> None:
    """The platform's word on the end is not heard: hours off are charged, up to the first look."""
    patch.setattr(meter, "_told_end_ms", lambda interval, read: None)


def let_it_run_on(patch: pytest.MonkeyPatch) -> None:
    """A daemon that comes back after a lease's end gives it some hours more before it stops it."""
    switching_off = core_decide._switching_off

    def kind(snap: Snapshot, now: Any) -> Any:
        end = None if snap.lease is None else snap.lease.end
        late_ms = 0 if end is None else elapsed_ms(end, now)
        return () if 60_000 < late_ms < 36_000_000 else switching_off(snap, now)

    patch.setattr(core_decide, "_switching_off", kind)


def keep_quiet_about_a_breach(patch: pytest.MonkeyPatch) -> None:
    """A job goes past its cap, and nobody is told."""
    patch.setattr(Snapshot, "in_breach", property(lambda self: False))


def book_an_overrun_as_covered(patch: pytest.MonkeyPatch) -> None:
    """What no lease had reserved is posted as if one had."""
    charge = books.Books.charge

    def covered(self: Any, purse: Any, amount: int, part: int, **more: Any) -> None:
        before = purse.overrun_micros
        charge(self, purse, amount, part, **more)
        purse.overrun_micros = before

    patch.setattr(books.Books, "charge", covered)


def print_half_the_price(patch: pytest.MonkeyPatch) -> None:
    """What an hour costs that nothing bounds is printed as half of it."""
    bounds = plan._bounds

    def half(facts: Any, tariff: Any, now_ms: int) -> list[str]:
        halved = replace(tariff, price_micros_per_hour=tariff.price_micros_per_hour // 2)
        return bounds(facts, halved, now_ms)

    patch.setattr(plan, "_bounds", half)


MUTANTS: dict[str, Mutant] = {
    "charges twice": Mutant(charge_twice, frozenset({"I3 once"})),
    "charges beyond the lease": Mutant(
        charge_beyond_the_lease,
        frozenset({"I3 once"}),
        focus={"suspend": 0.3, "clock_jump": 0.0, "new_boot": 0.0, "stale_read": 0.0},
    ),
    "lets it run on": Mutant(
        let_it_run_on,
        frozenset({"bound"}),
        seeds=20,
        first_seed=20,
        focus={"suspend": 0.3, "timer_never": 1.0, "guest_stop_fails": 1.0},
    ),
    "keeps quiet about a breach": Mutant(
        keep_quiet_about_a_breach,
        frozenset({"alarm"}),
        seeds=20,
        focus={"suspend": 0.3, "timer_never": 1.0, "guest_stop_fails": 1.0},
    ),
    "books an overrun as covered": Mutant(
        book_an_overrun_as_covered,
        frozenset({"overrun"}),
        seeds=20,
        focus={"suspend": 0.3, "timer_never": 1.0, "guest_stop_fails": 1.0},
    ),
    "prints half the price": Mutant(
        print_half_the_price,
        frozenset({"bound"}),
        tier=2,
        days=1.0,
        first_seed=6,
        seeds=3,
        focus={
            "suspend": 0.7,
            "timer_never": 1.0,
            "guest_stop_fails": 1.0,
            "price_change": 0.0,
        },
    ),
    "takes a refused stop for final": Mutant(
        take_a_refusal_for_final,
        frozenset({"liveness"}),
        days=0.6,
        focus={"stop_refused": 0.7},
    ),
    "takes unlisted for unmade": Mutant(
        take_unlisted_for_unmade,
        frozenset({"one_instance"}),
        focus={"not_listed_yet": 0.9, "timeout_after": 0.3},
    ),
    "forgets an open create": Mutant(
        forget_an_open_create, frozenset({"one_instance"}), focus={"kill": 0.05}
    ),
    "leaves duplicates running": Mutant(
        leave_duplicates, frozenset({"prompt"}), focus={"twin": 0.7}
    ),
    "keeps quiet about overruns": Mutant(
        keep_quiet_about_overruns,
        frozenset({"alarm"}),
        tier=2,
        days=0.6,
        first_seed=17,
        seeds=40,
        focus={"suspend": 0.25, "timer_never": 1.0, "guest_stop_fails": 1.0},
    ),
    "asks seldom": Mutant(ask_seldom, frozenset({"prompt"})),
    "settles on the stop call's 200": Mutant(believe_the_stop_call, frozenset({"I4"})),
    "forgets L": Mutant(forget_latency, frozenset({"cap", "I2"}), first_seed=40),
    "charges from the local clock": Mutant(
        charge_by_the_wall_clock, frozenset({"I3"}), first_seed=14, focus={"clock_jump": 0.5}
    ),
    "arms by the wall clock": Mutant(
        arm_by_the_wall_clock, frozenset({"I2", "cap"}), focus={"clock_jump": 0.5}
    ),
    "prices by the wall clock": Mutant(
        price_by_the_wall_clock, frozenset({"cap"}), first_seed=11_602, seeds=1, days=7.0, edition=2
    ),
    "comes back at the next poll": Mutant(
        come_back_at_the_next_poll,
        frozenset({"cap"}),
        first_seed=18_017,
        seeds=1,
        days=7.0,
        edition=2,
    ),
    "retries a create": Mutant(
        retry_a_create, frozenset({"one_instance"}), focus={"timeout_after": 0.3}
    ),
    "treats unknown as stopped": Mutant(
        take_unknown_for_stopped, frozenset({"I4"}), focus={"unknown_power": 0.5}
    ),
    "treats off as free": Mutant(take_off_for_free, frozenset({"I4"})),
    "renews before the timer is read back": Mutant(
        renew_before_the_timer_is_read_back, frozenset({"I2"})
    ),
    "counts a consumed reservation twice": Mutant(
        count_a_reservation_twice, frozenset({"I2", "cap"})
    ),
    "ignores a price rise": Mutant(
        ignore_a_price_rise, frozenset({"I3"}), focus={"price_change": 0.5}
    ),
    "forgets the disk": Mutant(forget_the_disk, frozenset({"I1"})),
    "stalls in every phase": Mutant(stall_in_every_phase, frozenset({"wrong_pause"})),
    "gives up stopping": Mutant(
        give_up_stopping, frozenset({"liveness"}), seeds=15, focus={"stop_ignored": 0.8}
    ),
}
