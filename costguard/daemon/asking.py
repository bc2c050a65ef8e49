"""What a job asks of a platform: the request that rents, and what exactly that would cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.providers.base import CreateRequest, Quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.core.moment import Moment
    from costguard.core.spec import JobSpec
    from costguard.providers.base import InstanceView, Provider


def read_instance(provider: Provider, instance_id: str, now: Moment) -> InstanceView:
    """The instance as the platform tells of it now; raises ProviderError.

    Where it tells no time with that, its answer's own date is it, in whole seconds.
    """
    view = provider.read(instance_id, now)
    if view.read.told_at_ms is not None:
        return view
    return replace(view, read=replace(view.read, told_at_ms=provider.platform_ms()))


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
        view = provider.read(spec.instance.instance_id, now)
        return Quote(view.gpu or spec.instance.gpu or "GPU", view.tariff, in_stock=True)
    ask: Callable[[CreateRequest], Quote] | None = getattr(provider, "price", None)
    if not callable(ask):
        return provider.quote(spec.instance.gpu)
    return ask(request_for(spec, public_key))
