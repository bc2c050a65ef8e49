"""What a job asks of a platform, each in its own time: a read, a timer, a price, a rent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.core.meter import ahead_of_ms, clock_ahead_ms
from costguard.providers.base import CreateRequest, Quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.core.moment import Moment
    from costguard.core.snapshot import Snapshot
    from costguard.core.spec import JobSpec
    from costguard.providers.base import InstanceView, Provider


def read_instance(provider: Provider, instance_id: str, now: Moment) -> InstanceView:
    """The instance as the platform tells of it now; raises ProviderError.

    Where it tells no time with that, its answer's own date is it. Its timer and its tariff's clock
    are told in our time.
    """
    view = provider.read(instance_id, now)
    if view.read.told_at_ms is None:
        view = replace(view, read=replace(view.read, told_at_ms=provider.platform_ms()))
    return in_our_time(view, clock_ahead_ms(view.read))


def in_our_time(view: InstanceView, ahead_ms: int) -> InstanceView:
    """The view of a platform whose clock is so far ahead of ours: its timer, nights and hours."""
    tariff, timer_ms = view.tariff.told_ahead(ahead_ms), view.read.timer_at_ms
    if timer_ms is None or ahead_ms == 0:
        return view if tariff is view.tariff else replace(view, tariff=tariff)
    return replace(view, tariff=tariff, read=replace(view.read, timer_at_ms=timer_ms - ahead_ms))


def ahead_ms(provider: Provider, now: Moment) -> int:
    """How far the platform's clock is ahead of our wall clock; 0 where they agree, or not told."""
    return ahead_of_ms(provider.platform_ms(), now.utc_ms)


def by_the_platforms_clock(snap: Snapshot, provider: Provider, now: Moment) -> Snapshot:
    """The snapshot with the terms of a rent that is still to begin, by the clocks as they are now.

    A rent that runs has its own: it is metered in a time that no setting of our clock changes.
    """
    runs = snap.instance is not None and snap.instance.interval is not None
    if runs or snap.tariff is None or not snap.tariff.goes_by_clock:
        return snap
    return replace(snap, tariff=snap.tariff.told_ahead(ahead_ms(provider, now)))


def arm_timer(provider: Provider, instance_id: str, at_ms: int, now: Moment) -> int | None:
    """Set the platform's stop timer, and what it reads back; raises ProviderError.

    Both in our time: the platform is told its own, by which it fires. A wall clock that is wrong
    would have it stop too late, or each start at once.
    """
    ahead = ahead_ms(provider, now)
    back_ms = provider.arm_timer(instance_id, at_ms + ahead)
    return None if back_ms is None else back_ms - ahead


def create_instance(provider: Provider, request: CreateRequest, now: Moment) -> InstanceView:
    """Rent, the timer that goes with the call in the platform's time; raises ProviderError."""
    ahead = ahead_ms(provider, now)
    if request.stop_at_ms is not None:
        request = replace(request, stop_at_ms=request.stop_at_ms + ahead)
    return in_our_time(provider.create(request, now), ahead)


def request_for(
    spec: JobSpec, public_key: str, tag: str = "", stop_at_ms: int | None = None
) -> CreateRequest:
    """The create call of this job, every wish of its file in it."""
    wish = spec.instance
    return CreateRequest(
        name=f"costguard-{spec.name}",
        tag=tag,
        gpu=wish.gpu,
        gpu_count=wish.gpu_count,
        image=wish.image,
        region=wish.region,
        ssh_public_key=public_key,
        stop_at_ms=stop_at_ms,
        max_price_micros_per_hour=wish.max_price_micros_per_hour,
        system_disk_gb=wish.system_disk_gb,
        data_disk_gb=wish.data_disk_gb,
    )


def price_of(provider: Provider, spec: JobSpec, public_key: str, now: Moment) -> Quote:
    """The tariff that this job would run under; raises ProviderError.

    An instance to adopt has one already. Otherwise it is asked for with cards, disks and region
    where the platform takes such a question, else for the GPU alone.
    """
    if spec.instance.instance_id is not None:
        view = read_instance(provider, spec.instance.instance_id, now)
        return Quote(view.gpu or spec.instance.gpu or "GPU", view.tariff, in_stock=True)
    ask: Callable[[CreateRequest], Quote] | None = getattr(provider, "price", None)
    if callable(ask):
        quote = ask(request_for(spec, public_key))
    else:
        quote = provider.quote(spec.instance.gpu)
    return replace(quote, tariff=quote.tariff.told_ahead(ahead_ms(provider, now)))
