"""仙宫云 xiangongyun: two ways of shutting down, of which one keeps the meter running.

How sure each fact is: (d) documented by the platform, (s) seen by users, (g) guessed by us.
The platform's own page could not be read: what is (s) here rests on public clients and a copied
reference. Nothing was tried against a live account.

- (s) Bearer token; success is told by `success`: the code of a success is 0 in one source and 200
  in an answer that somebody recorded.
- (s) `shutdown` switches off and keeps the GPU, at the full price; `shutdown_release_gpu` lets it
  go and stops the meter. Only the latter is ever called here. Both lead to the state `shutdown`:
  such an instance counts as stopped if this process let its GPU go, or if it uses none
  (`gpu_used` 0, (g)); otherwise it counts as off and charged, and is told to let go again.
- (s) What the system disk uses costs 0.00003 yuan per GB and hour while it is off; its whole size
  is taken for what it uses.
- (s) By the second from running on, charged each hour afterwards. The hour is assumed, per start,
  until `billing = "second"` says that a bill showed otherwise.
- (s) The price is told of instances that exist, not of what could be rented: what the console
  shows belongs into `prices_yuan_per_hour`.
- (s) A balance below zero deletes instances, irrecoverably.
- (s) `auto_shutdown` can be read, and no call is known that sets it: no timer.
- (s) No capacity is told by words alone: 可用GPU不足, GPU型号暂时不可用.
- Not said anywhere: rate limits, power-off from inside. (g) Stop to the meter's end: 3 minutes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Tariff
from costguard.providers.base import (
    Absent,
    AccountRefused,
    AuthRefused,
    BillLine,
    CreateRequest,
    ImageInfo,
    InstanceView,
    NoCapacity,
    Offer,
    ProviderError,
    ProviderFacts,
    Quote,
    Refused,
    SshDetails,
    Unclear,
)
from costguard.providers.declared import (
    Credential,
    Declaration,
    Option,
    guest_stop,
    ms_option,
    secret_of,
)
from costguard.providers.shared import (
    Known,
    PriceBook,
    accept,
    has_words,
    made_view,
    need_image,
    quantum_option,
    wish,
)
from costguard.providers.units import decimal, micros, ms_of_s, price_micros
from costguard.providers.wire import Wire, understood

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from costguard.core.moment import Moment

BASE_URL = "https://api.xiangongyun.com"
WORK_DIR = "/root"
DISK_YUAN_PER_GB_HOUR = "0.00003"
BYTES_PER_GB = 1_000**3

CARDS = {
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 4090 D": "RTX 4090 D",
    "NVIDIA GeForce RTX 4090 48G": "RTX 4090 48G",
    "NVIDIA GeForce RTX 4090 D 48G": "RTX 4090 D 48G",
}
POWER = {
    "deploying": Power.STARTING,
    "booting": Power.STARTING,
    "running": Power.RUNNING,
    "shutting_down": Power.STOPPING,
    "shutdown": Power.STOPPED,
    "stopped": Power.STOPPED,
    "destroying": Power.STOPPING,
}
GONE = ("不存在", "not found", "未找到实例")
SOLD_OUT = ("可用GPU不足", "GPU型号暂时不可用", "库存不足")
ARREARS = ("余额不足", "欠费")
TOKEN = ("访问令牌", "token")


class Xiangongyun:
    """One xiangongyun account."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        token = secret_of(settings, "token")
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._wire = Wire.of(settings, BASE_URL, (token,), headers)
        self._quantum_s = quantum_option(settings, "hour")
        self._center = int(str(settings.get("data_center_id", "1")))
        self._prices = PriceBook("xiangongyun", CARDS, settings, self._quantum_s)
        self._known = Known()
        self._let_go: set[str] = set()  # instances whose GPU this process has let go of
        self.facts = ProviderFacts(
            name="xiangongyun",
            poll_interval_ms=ms_option(settings, "poll_interval_s", 15_000),
            cache_age_ms=15_000,
            stop_latency_ms=ms_option(settings, "stop_latency_s", 180_000),
            timer_min_lead_ms=None,
            timer_lateness_ms=0,
            arms_timer_at_create=False,
            in_guest_stop=guest_stop(settings),
            in_guest_stop_proven=False,
            in_guest_stop_given="in_guest_stop_command" in settings,
            tells_bill=False,
            tells_stock=False,
            tells_prices=False,
            console_url="https://www.xiangongyun.com/console/instance/list",
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The price of one card, as the config says that the console shows it."""
        return self.price(wish(gpu))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """Every instance whose name begins with `tag_prefix`; the list comes in one piece (s)."""
        data = self._data("GET", "/open/instances")
        with understood("xiangongyun list"):
            items = list(data["list"] or ())
            if len(items) < int(data["total"]):
                raise ValueError("a list that is not whole")
            views = [
                self._view(item, now)
                for item in items
                if str(item["name"]).startswith(tag_prefix) and item["status"] != "destroyed"
            ]
        return tuple({view.id: view for view in views}.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance."""
        data = self._data("GET", f"/open/instance/{instance_id}")
        with understood(f"xiangongyun {instance_id}"):
            if data["id"] != instance_id:
                raise ValueError("another instance than was asked for")
            if data["status"] == "destroyed":
                raise Absent(f"xiangongyun: {instance_id} is destroyed")
            return self._view(data, now)

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one with our key; a private image is `private:ID`, a community's `community:ID`."""
        image = need_image(request, "xiangongyun")
        quote = self.price(request)
        accept(request, quote, "xiangongyun")
        kind, _, name = image.rpartition(":")
        body: dict[str, Any] = {
            "name": request.tag,
            "gpu_model": quote.gpu,
            "gpu_count": request.gpu_count,
            "data_center_id": self._where(request),
            "image": name,
            "image_type": kind or "public",
            "ssh_key": request.ssh_public_key,
        }
        if request.system_disk_gb:
            body["system_disk_expand"] = True
            body["system_disk_expand_size"] = request.system_disk_gb * BYTES_PER_GB
        data = self._data("POST", "/open/instance/deploy", body=body)
        with understood("xiangongyun create"):
            made = str(data["id"])
        try:
            return self.read(made, now)
        except ProviderError:
            return made_view(made, request, quote, now)  # rented: that must not get lost

    def start(self, instance_id: str) -> None:
        """Ask for power on with the cards that it had."""
        self._let_go.discard(instance_id)
        self._call("POST", "/open/instance/boot", body={"id": instance_id})

    def stop(self, instance_id: str) -> None:
        """Ask for power off and let the GPU go: the other way off keeps charging."""
        path = "/open/instance/shutdown_release_gpu"
        self._call("POST", path, body={"id": instance_id}, urgent=True)
        self._let_go.add(instance_id)

    def release(self, instance_id: str) -> None:
        """Give it back with its disk."""
        self._call("POST", "/open/instance/destroy", body={"id": instance_id})

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Nothing: no call is known that sets one."""
        del instance_id, at_ms
        return None

    def bill_micros(self, instance_id: str) -> int | None:
        """Not told by the API."""
        del instance_id
        return None

    def balance_micros(self) -> int | None:
        """What is left; below zero, the platform deletes instances."""
        data = self._data("GET", "/open/balance")
        with understood("xiangongyun balance"):
            return micros(data["balance"])

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """From the config's price list; whether there is stock, only renting tells."""
        card, tariff = self._prices.find(request.gpu, request.gpu_count)
        disk = _disk_micros((request.system_disk_gb or 0) * BYTES_PER_GB)
        return Quote(card, replace(tariff, paused_micros_per_hour=disk), in_stock=True)

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """The cards that the config has a price of."""
        return tuple(
            Offer(card, gpu_count, tariff, None) for card, tariff in self._prices.all(gpu_count)
        )

    def images(self, words: str) -> Sequence[ImageInfo]:
        """The account's own images, by words."""
        data = self._data("GET", "/open/images")
        found = []
        with understood("xiangongyun images"):
            for item in data["list"] or ():
                says = str(item.get("introduction") or "")
                image = ImageInfo(f"private:{item['id']}", str(item["name"]), "private", says)
                if has_words(image, words):
                    found.append(image)
        return tuple(found)

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """None: the API tells no bills."""
        del instance_id, since_ms, until_ms
        return ()

    def platform_ms(self) -> int | None:
        """The platform's clock, counted on since its last answer."""
        return self._wire.dates.now_ms()

    # ------------------------------------------------------------------ the calls

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        what = f"xiangongyun {path.removeprefix('/open')}"
        answer = self._wire.call(method, path, what=what, **options)
        error = _judge(answer.status, answer.body, what)
        if error is not None:
            raise self._wire.clean(error)
        return answer.body

    def _data(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        data = self._call(method, path, **options).get("data")
        if not isinstance(data, dict):
            raise Unclear(f"xiangongyun {path}: no data in the answer")
        return data

    def _where(self, request: CreateRequest) -> int:
        if request.region is None:
            return self._center
        if not request.region.isdecimal():
            raise Refused(
                f"xiangongyun: region {request.region!r} is no data center; they are numbers, "
                "such as 1"
            )
        return int(request.region)

    def _view(self, item: Mapping[str, Any], now: Moment) -> InstanceView:
        instance_id, status = str(item["id"]), str(item["status"])
        power = POWER.get(status, Power.UNKNOWN)
        used = item.get("gpu_used")
        if power is Power.STOPPED and instance_id not in self._let_go and used != 0:
            power = Power.OFF_BILLING
        elif power is not Power.STOPPED and power is not Power.STOPPING:
            self._let_go.discard(instance_id)  # switched on since, whoever did it
        gpu, count = str(item["gpu_model"]), int(item.get("gpu_count") or used or 1)
        disk = _disk_micros(item.get("system_disk_size") or 0)
        price = price_micros(item.get("price_per_hour") or 0)
        told = Tariff(
            price_micros_per_hour=price, quantum_s=self._quantum_s, paused_micros_per_hour=disk
        )
        tariff = self._known.tariff(
            instance_id,
            told if price else None,
            lambda: replace(self._prices.find(gpu, count)[1], paused_micros_per_hour=disk),
        )
        return InstanceView(
            id=instance_id,
            tag=str(item["name"]),
            gpu=gpu,
            read=PowerRead(power=power, begun=now),
            tariff=tariff,
            ssh=_ssh(item) if power is Power.RUNNING else None,
            created_ms=ms_of_s(item.get("create_timestamp")),
            gpu_count=count,
            status=status,
        )


def _disk_micros(size_bytes: Any) -> int:
    return price_micros(decimal(size_bytes) / BYTES_PER_GB * decimal(DISK_YUAN_PER_GB_HOUR))


def _judge(status: int, body: Mapping[str, Any], what: str) -> ProviderError | None:
    success, message = body.get("success"), str(body.get("msg") or "")
    if not isinstance(success, bool):
        return Unclear(f"{what}: the answer does not say whether it succeeded")
    if success and status // 100 == 2:
        return None
    said = f"({status} {body.get('code')} {message})"
    if any(word in message for word in SOLD_OUT):
        return NoCapacity(f"{what}: sold out at the moment {said}")
    if any(word in message for word in ARREARS):
        return AccountRefused(f"{what}: the account is in arrears: top it up {said}")
    if "实名" in message:
        return AccountRefused(f"{what}: the account is not verified (实名): verify it {said}")
    if status in (401, 403) or any(word in message for word in TOKEN):
        return AuthRefused(
            f"{what}: the token is wrong or expired: make a new one at "
            f"xiangongyun.com/console/user/accesstoken {said}"
        )
    if status == 404 or any(word in message for word in GONE):
        return Absent(f"{what}: there is no such instance {said}")
    return Refused(f"{what}: refused {said}")


def _ssh(item: Mapping[str, Any]) -> SshDetails | None:
    """How to log in; None where it is not told, which must not hide the power state."""
    try:
        host, port = str(item["ssh_domain"]), int(item["ssh_port"])
        user, word = str(item.get("ssh_user") or "root"), str(item.get("password") or "")
    except (LookupError, TypeError, ValueError):
        return None
    return SshDetails(host, port, user, (), WORK_DIR, SecretStr(word) if word else None)


DECLARATION = Declaration(
    name="xiangongyun",
    title="仙宫云",
    credentials=(Credential("token", "访问令牌", "www.xiangongyun.com/console/user/accesstoken"),),
    options=(
        Option("prices_yuan_per_hour", 'a card\'s price in the console: { "RTX 4090" = 1.98 }'),
        Option("data_center_id", "the number of the data center", "1"),
        Option("billing", "what a power interval is rounded up to: second, minute, hour", "hour"),
    ),
    open=Xiangongyun,
)
