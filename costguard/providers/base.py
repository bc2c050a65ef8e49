"""The Protocol that every rental platform is behind, and what its calls can go wrong with.

ProviderError
├── Unclear        the call may or may not have taken effect: ask before calling again
├── Absent         the platform does not know this instance (unknown until absent for long)
└── Refused        a definite no; nothing happened
    ├── NoCapacity      nothing to rent right now
    ├── Busy            another operation on this instance is under way: later
    ├── AuthRefused     token wrong, expired or not allowed: polling stops, a person is needed
    └── AccountRefused  not verified, in arrears or over its quota: a person is needed, there

`Provider` is what a pass needs of a platform. `Account` adds what a person asks before and after:
offers, images, prices of a whole request, lines of the bill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from costguard.errors import CostguardError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic import SecretStr

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


class Busy(Refused):
    """The platform lets only one operation at a time touch this instance."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AuthRefused(Refused):
    """The platform does not accept our credentials."""


class AccountRefused(Refused):
    """The account may not: not verified, in arrears, or over its quota."""


TimerKind = Literal["none", "lease", "fixed"]
KeySource = Literal["daemon", "password", "account", "user"]


@dataclass(frozen=True, slots=True)
class SshDetails:
    """How to reach a running instance, as the platform tells it at this boot.

    Host, port and password may all be others after the next start: never keep them across one.
    """

    host: str
    port: int
    user: str
    host_keys: tuple[str, ...]  # public key lines; empty where the platform gives none
    work_dir: str
    password: SecretStr | None = None
    key_file: Path | None = None  # the user's own key, where the config names one


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
    gpu_count: int | None = None
    charge_type: str | None = None  # the platform's own word
    status: str = ""  # the platform's own word on the power state
    unfit: str | None = None  # why it must not be adopted, in a sentence; None where it may
    release_at_ms: int | None = None  # when the platform deletes it by itself, where it tells
    waits_for_capacity: bool = False  # told to start, and waits for a card, perhaps for ever


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What to rent, under which tag, and when the platform's own timer is to stop it.

    `tag` is what our instances are known by: adapters put it wherever their platform keeps a
    text of the user's, which is the instance's name on most.
    """

    name: str
    tag: str
    gpu: str | None
    gpu_count: int
    image: str | None
    region: str | None
    ssh_public_key: str
    stop_at_ms: int | None
    max_price_micros_per_hour: int | None
    system_disk_gb: int | None = None
    data_disk_gb: int | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """The tariff that a request would be billed under, and whether there is stock."""

    gpu: str
    tariff: Tariff
    in_stock: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that can be rented. `gpu` is the platform's own id; `in_stock` None: not told."""

    gpu: str
    gpu_count: int
    tariff: Tariff
    in_stock: bool | None
    memory_gib: int | None = None
    region: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image to start from; `says` is all that its own name, tags and description say."""

    id: str
    name: str
    kind: str
    says: str


@dataclass(frozen=True, slots=True)
class BillLine:
    """One charge on the platform's bill, for a closed or the present period."""

    instance_id: str
    begun_ms: int
    ended_ms: int | None
    micros: int
    what: str


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What is known of a platform, with the worst figures it documents.

    `stop_latency_ms` is from the stop call to the meter's end; `cache_age_ms` how old an answer
    about the power state may be; `timer_min_lead_ms` how far ahead a stop timer must lie (None:
    no timer that can be moved); `timer_lateness_ms` how late it may fire. `timer_is_fixed`: the
    platform takes a deadline at create and never again, so that it is no lease and is gone after
    a resume. `can_stop` is False where nobody but a person can stop the meter. Where the platform
    charges in another currency, `yuan_per_unit_micros` is the rate that prices here were made
    with, and it belongs into the books. `release_after_off_days`: off for so long, an instance
    is deleted by the platform, disk and all. `tells_meter_end`: its answers say when rent ended;
    elsewhere it is charged up to the first answer that shows it off, a poll later (`seen_late_ms`).
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
    in_guest_stop_given: bool = False  # the user's own command, from the config
    client_key_source: KeySource = "daemon"
    timer_is_fixed: bool = False
    timer_step_ms: int = 1_000  # to what a timer is kept; rounded down, never later than asked
    can_stop: bool = True
    can_create: bool = True
    can_resume: bool = True
    creates_once: bool = False  # a create call that is sent twice on the way makes one instance
    keeps_tags: bool = True  # False: lists know ours only while this process lives
    tells_balance: bool = True
    tells_bill: bool = True
    tells_stock: bool = True
    tells_meter_end: bool = False
    tells_prices: bool = True  # of what could be rented; False: they are copied into the config
    release_after_off_days: int | None = None
    currency: str = "CNY"
    yuan_per_unit_micros: int = 1_000_000
    console_url: str = ""

    @property
    def seen_late_ms(self) -> int:
        """How long after the meter's end an answer may be the first that can show it off."""
        return 0 if self.tells_meter_end else self.poll_interval_ms + self.cache_age_ms

    @property
    def timer_kind(self) -> TimerKind:
        """`lease` where the timer can be moved, `fixed` where it is set once, else `none`."""
        if self.timer_is_fixed:
            return "fixed"
        return "none" if self.timer_min_lead_ms is None else "lease"


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

    def platform_ms(self) -> int | None:
        """The platform's own clock (UTC ms) now, as its answers told it; None where none did.

        Stop timers fire by it, whatever our wall clock says; and after a boot of ours anew, with a
        wall clock that was wrong before or is now, theirs knows how long we were away.
        """
        ...


class Account(Provider, Protocol):
    """What a person asks of a rental account before renting and after paying."""

    def price(self, request: CreateRequest) -> Quote:
        """The tariff of exactly this request: cards, disks, image and region counted."""
        ...

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """What can be rented with so many cards."""
        ...

    def images(self, words: str) -> Sequence[ImageInfo]:
        """Images whose name or description holds all of these words; Refused if not offered."""
        ...

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """The lines of the bill for one instance; none where the platform gives none."""
        ...
