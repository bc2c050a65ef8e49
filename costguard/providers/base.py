"""The Protocol that every rental platform is behind, and what its calls can go wrong with.

ProviderError
├── Unclear        the call may or may not have taken effect: ask before calling again
├── Absent         the platform does not know this instance (unknown until absent for long)
└── Refused        a definite no; nothing happened
    ├── NoCapacity     nothing to rent right now
    └── AuthRefused    token wrong, expired or not allowed: polling stops, a person is needed
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from costguard.errors import CostguardError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.core.moment import Moment
    from costguard.core.power import PowerRead
    from costguard.core.tariff import Tariff


class ProviderError(CostguardError):
    """The root of what a platform call can raise."""


class Unclear(ProviderError):
    """Time-out, cut connection, 5xx or 429: nobody knows whether the call took effect."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Absent(ProviderError):
    """The platform says that there is no such instance."""


class Refused(ProviderError):
    """The platform said no, and nothing happened."""


class NoCapacity(Refused):
    """There is nothing of that kind to rent at the moment."""


class AuthRefused(Refused):
    """The platform does not accept our credentials."""


@dataclass(frozen=True, slots=True)
class SshDetails:
    """How to reach a running instance, as the platform tells it at this boot."""

    host: str
    port: int
    user: str
    host_keys: tuple[str, ...]  # public key lines; empty where the platform gives none
    work_dir: str


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance as the platform describes it in one answer."""

    id: str
    tag: str
    gpu: str | None
    read: PowerRead
    tariff: Tariff
    ssh: SshDetails | None
    created_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What to rent, under which tag, and when the platform's own timer is to stop it."""

    name: str
    tag: str
    gpu: str | None
    gpu_count: int
    image: str | None
    region: str | None
    ssh_public_key: str
    stop_at_ms: int | None
    max_price_micros_per_hour: int | None


@dataclass(frozen=True, slots=True)
class Quote:
    """The tariff that a request would be billed under, and whether there is stock."""

    gpu: str
    tariff: Tariff
    in_stock: bool


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What is known of a platform, with the worst figures it documents.

    `stop_latency_ms` is from the stop call to the meter's end; `cache_age_ms` how old an answer
    about the power state may be; `timer_min_lead_ms` how far ahead a stop timer must lie (None:
    the platform has no timer); `timer_lateness_ms` how late it may fire.
    """

    name: str
    poll_interval_ms: int
    cache_age_ms: int
    stop_latency_ms: int
    timer_min_lead_ms: int | None
    timer_lateness_ms: int
    arms_timer_at_create: bool
    in_guest_stop: tuple[str, ...] | None
    in_guest_stop_proven: bool
    client_key_source: str = "daemon"


class Provider(Protocol):
    """One rental account. Every method may raise ProviderError; none retries by itself.

    Calls that change something are made once: whether an unclear one took effect is found out by
    reading, never by calling again blindly.
    """

    facts: ProviderFacts

    def quote(self, gpu: str | None) -> Quote:
        """The price and stock of a GPU type; Refused where the platform has no such type."""
        ...

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """All instances whose tag begins with `tag_prefix`, every page of them."""
        ...

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance; Absent where the platform knows none of that id."""
        ...

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent; NoCapacity where there is none."""
        ...

    def start(self, instance_id: str) -> None:
        """Ask for power on; returning means accepted, no more."""
        ...

    def stop(self, instance_id: str) -> None:
        """Ask for power off; returning means accepted, no more."""
        ...

    def release(self, instance_id: str) -> None:
        """Give the instance back, its disk with it."""
        ...

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Set the platform's own stop timer and return what it reads back (UTC ms)."""
        ...

    def bill_micros(self, instance_id: str) -> int | None:
        """What the platform has billed for this instance so far; None where it does not tell."""
        ...

    def balance_micros(self) -> int | None:
        """What is left in the wallet; None where the platform does not tell."""
        ...
