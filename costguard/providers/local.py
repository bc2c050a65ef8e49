"""The embedded default: the small rental platform on this machine, spoken to over HTTP.

Facts about it are its own documentation (costguard/localcloud/README.md): per-start rounding, a
settable quantum, a stop timer that is armed at create and read back, and a power-off from inside
that stops the meter, so that it counts as an enforcer.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import requests

from costguard.core.calendar import Window
from costguard.core.money import MICROS_PER_YUAN
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import ZONE, Discount, Tariff
from costguard.providers.base import (
    Absent,
    AuthRefused,
    BillLine,
    CreateRequest,
    ImageInfo,
    InstanceView,
    NoCapacity,
    Offer,
    ProviderFacts,
    Quote,
    Refused,
    SshDetails,
    Unclear,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from costguard.core.moment import Moment

CONNECT_TIMEOUT_S = 3.05
READ_TIMEOUT_S = 5.0
DEFAULT_GPU = "RTX 3090"
PAGE_LIMIT = 1_000  # a platform that pages for ever must not hold a pass for ever

POWER = {
    "starting": Power.STARTING,
    "running": Power.RUNNING,
    "stopping": Power.STOPPING,
    "stopped": Power.STOPPED,
    "off": Power.STOPPED,
}


class LocalProvider:
    """The adapter for `provider = "local"`."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        poll_interval_ms: int = 1_000,
        stop_latency_ms: int = 15_000,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"
        self._session.trust_env = False  # loopback never goes through a proxy
        self._timeout = (CONNECT_TIMEOUT_S, read_timeout_s)
        self.facts = ProviderFacts(
            name="local",
            poll_interval_ms=poll_interval_ms,
            cache_age_ms=0,
            stop_latency_ms=stop_latency_ms,
            timer_min_lead_ms=1_000,
            timer_lateness_ms=1_000,
            arms_timer_at_create=True,
            in_guest_stop=("localcloud-power-off",),
            in_guest_stop_proven=True,
            tells_meter_end=True,
        )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> LocalProvider:
        """The adapter from `[providers.local]`: `base_url`, `token` and optional figures."""
        options: dict[str, Any] = {}
        if "poll_interval_s" in settings:
            options["poll_interval_ms"] = int(Decimal(str(settings["poll_interval_s"])) * 1000)
        if "stop_latency_s" in settings:
            options["stop_latency_ms"] = int(Decimal(str(settings["stop_latency_s"])) * 1000)
        if "read_timeout_s" in settings:
            options["read_timeout_s"] = float(settings["read_timeout_s"])
        return cls(str(settings["base_url"]), str(settings["token"]), **options)

    def quote(self, gpu: str | None) -> Quote:
        """The price and stock of a GPU type, the RTX 3090 unless another is named."""
        wanted = gpu or DEFAULT_GPU
        with _understood("offers"):
            offers = self._call("GET", "/v1/offers")["offers"]
            for offer in offers:
                if offer["gpu"].lower() == wanted.lower():
                    return Quote(offer["gpu"], tariff_from_wire(offer), int(offer["stock"]) > 0)
            names = ", ".join(offer["gpu"] for offer in offers)
        raise Refused(f"no GPU type {wanted!r} here; there are: {names}")

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """Every instance whose tag begins with `tag_prefix`, all pages."""
        found: dict[str, InstanceView] = {}
        seen = 0
        began_s = time.monotonic()
        for page in range(1, PAGE_LIMIT):
            with _understood("list"):
                answer = self._call("GET", "/v1/instances", params={"page": page})
                for item in answer["instances"]:
                    if item["tag"].startswith(tag_prefix):
                        found[item["id"]] = _view(item, now, began_s)
                seen += len(answer["instances"])
                if not answer["instances"] or seen >= int(answer["total"]):
                    break
        return tuple(found.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance as the platform describes it."""
        began_s = time.monotonic()
        with _understood(f"read {instance_id}"):
            return _view(self._call("GET", f"/v1/instances/{instance_id}"), now, began_s)

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one; the platform's stop timer is armed in the same call."""
        body: dict[str, Any] = {
            "name": request.name,
            "tag": request.tag,
            "gpu": request.gpu or DEFAULT_GPU,
            "gpu_count": request.gpu_count,
            "image": request.image,
            "region": request.region,
            "ssh_public_key": request.ssh_public_key,
            "stop_at": request.stop_at_ms,
        }
        if request.max_price_micros_per_hour is not None:
            price = Decimal(request.max_price_micros_per_hour) / MICROS_PER_YUAN
            body["max_price_yuan_per_hour"] = str(price)
        began_s = time.monotonic()
        with _understood("create"):
            return _view(self._call("POST", "/v1/instances", json=body), now, began_s)

    def start(self, instance_id: str) -> None:
        """Ask for power on."""
        self._call("POST", f"/v1/instances/{instance_id}/start")

    def stop(self, instance_id: str) -> None:
        """Ask for power off."""
        self._call("POST", f"/v1/instances/{instance_id}/stop")

    def release(self, instance_id: str) -> None:
        """Give the instance back, its disk with it."""
        self._call("DELETE", f"/v1/instances/{instance_id}")

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Set the stop timer, then ask what it is set to: the answer is a second call's."""
        self._call("PUT", f"/v1/instances/{instance_id}/stop_timer", json={"at": at_ms})
        with _understood("stop timer"):
            back = self._call("GET", f"/v1/instances/{instance_id}")["stop_at_ms"]
            return None if back is None else int(back)

    def bill_micros(self, instance_id: str) -> int | None:
        """The platform's own bill for this instance so far."""
        with _understood("bill"):
            answer = self._call("GET", "/v1/bill", params={"instance": instance_id})
            return _micros(answer["total_yuan"])

    def balance_micros(self) -> int | None:
        """What the wallet holds."""
        with _understood("wallet"):
            return _micros(self._call("GET", "/v1/wallet")["balance_yuan"])

    def price(self, request: CreateRequest) -> Quote:
        """What so many cards cost; the disk is charged beside them, on or off."""
        quote = self.quote(request.gpu)
        price = quote.tariff.price_micros_per_hour * request.gpu_count
        return replace(quote, tariff=replace(quote.tariff, price_micros_per_hour=price))

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """Every card type here."""
        with _understood("offers"):
            found = []
            for offer in self._call("GET", "/v1/offers")["offers"]:
                tariff, stock = tariff_from_wire(offer), int(offer["stock"])
                price = tariff.price_micros_per_hour * gpu_count
                whole = replace(tariff, price_micros_per_hour=price)
                found.append(Offer(offer["gpu"], gpu_count, whole, stock >= gpu_count))
            return tuple(found)

    def images(self, words: str) -> Sequence[ImageInfo]:
        """None: an instance here is this machine."""
        del words
        return ()

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """The whole bill of the instance as one line, where it falls into the time."""
        total = self.bill_micros(instance_id)
        if total is None:
            return ()
        return (BillLine(instance_id, since_ms, until_ms, total, "total so far"),)

    def platform_ms(self) -> int | None:
        """Not told: it is this machine's own clock."""
        return None

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One HTTP call, mapped onto the exception tree; never repeated here.

        A no counts only in the platform's own words: a page of a gateway between us, whatever
        its status, says nothing of what happened behind it.
        """
        try:
            response = self._session.request(
                method,
                self._base_url + path,
                timeout=self._timeout,
                allow_redirects=False,
                **options,
            )
            answer = response.json() if response.content else {}
        except (requests.RequestException, ValueError) as error:
            raise Unclear(f"{method} {path}: {type(error).__name__}: {error}") from error
        status = response.status_code
        if status // 100 == 2 and isinstance(answer, dict):
            return answer
        error_body = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(error_body, dict) or status // 100 != 4:
            raise Unclear(f"{method} {path}: {status}", _retry_after_s(response))
        code, message = str(error_body.get("code", "")), str(error_body.get("message", ""))
        text = f"{method} {path}: {status} {code} {message}".strip()
        if status == requests.codes.not_found:
            raise Absent(text)
        if status in (requests.codes.unauthorized, requests.codes.forbidden):
            raise AuthRefused(f"local: the platform's token is wrong or expired ({text})")
        if status == requests.codes.too_many_requests:
            raise Unclear(text, _retry_after_s(response))
        if code == "no_capacity":
            raise NoCapacity(message or text)
        raise Refused(message or text)


@contextlib.contextmanager
def _understood(what: str) -> Iterator[None]:
    """Unclear, where an answer is not what the platform documents."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise Unclear(f"{what}: the answer is not understood: {error!r}") from error


def endpoint_settings(home: Path) -> dict[str, str] | None:
    """`base_url` and `token` of the platform that runs on `home`, from the file it wrote."""
    try:
        data = json.loads((home / "endpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {"base_url": str(data["url"]), "token": str(data["token"])}


def _retry_after_s(response: requests.Response) -> float | None:
    try:
        return float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None  # absent, or an HTTP date: our own back-off serves


def _micros(yuan: str) -> int:
    return int(Decimal(yuan) * MICROS_PER_YUAN)


def tariff_from_wire(item: Mapping[str, Any]) -> Tariff:
    """The billing rule of an offer or an instance as the platform shows it."""
    billing = item.get("billing", {})
    return Tariff(
        price_micros_per_hour=_micros(item["price_yuan_per_hour"]),
        quantum_s=int(billing.get("quantum_s", 1)),
        paused_micros_per_hour=_micros(item.get("disk_price_yuan_per_hour", "0")),
        by_clock=billing.get("rounding") == "per_clock",
        minimum_s=int(billing.get("minimum_s", 0)),
        minimum_micros=int(billing.get("minimum_micros", 0)),
        zone=billing.get("zone", ZONE),
        discounts=tuple(_discount(one) for one in billing.get("discounts", ())),
    )


def _discount(item: Mapping[str, Any]) -> Discount:
    day = item["day"]
    dates = () if day is None else (day,)
    window = Window(int(item["from_s"]), int(item["until_s"]), dates=dates)
    return Discount(int(item["percent"]) * 10, window)


def _view(item: Mapping[str, Any], now: Moment, began_s: float) -> InstanceView:
    """`began_s`: when the question was sent, at `now`, by the clock that nobody sets."""
    power = POWER.get(str(item["status"]), Power.UNKNOWN)
    charging = bool(item["charging"])
    if power is Power.STOPPED and charging:
        power = Power.OFF_BILLING
    read = PowerRead(
        power=power,
        begun=now,
        charging=charging,
        price_micros_per_hour=_micros(item["price_yuan_per_hour"]),
        charged_since_ms=item["charged_since_ms"],
        charged_until_ms=item["charged_until_ms"],
        timer_at_ms=item["stop_at_ms"],
        told_at_ms=now.utc_ms + round((time.monotonic() - began_s) * 1000),
    )
    return InstanceView(
        id=str(item["id"]),
        tag=str(item["tag"]),
        gpu=item["gpu"],
        gpu_count=item.get("gpu_count"),
        status=str(item["status"]),
        read=read,
        tariff=tariff_from_wire(item),
        ssh=_ssh(item),
        created_ms=item["created_at_ms"],
    )


def _ssh(item: Mapping[str, Any]) -> SshDetails | None:
    ssh = item["ssh"]
    if ssh is None:
        return None
    return SshDetails(
        host=ssh["host"],
        port=int(ssh["port"]),
        user=ssh["user"],
        host_keys=(ssh["host_key"],),
        work_dir=item["work_dir"],
    )
