"""晨羽智云 chenyu: a stop timer whose unit its own page contradicts, and no name of ours.

How sure each fact is: (d) documented by the platform, (s) seen by users, (g) guessed by us.
Nothing here was tried against a live account.

- (d) Bearer token; `code` 0 is success; (s) 401, 403, 404, 429 with `Retry-After`, 500.
- (d) The timer's page says Unix seconds in its table, minutes in its notes. Seconds are sent, and
  what `shutdown_regular` then says is believed: read as minutes, it is not the time asked for,
  and counts as not armed. At least 5 minutes ahead; running instances only.
- (d) A create call takes no name. One that is unclear is found again as the instance that was not
  listed before it, with the same card and image; ids and tags are kept for as long as this
  process lives, so that after a restart lists know none of ours. `title` is sent in hope (g).
- (d) Actions answer without data; state 2 runs, 21 stops, 22 is stopped, 24 starts, 27 restarts.
  (s) 1 is being made. 23 "stopped abnormally" and 4 "stopped, old" (s) are unknown here: nobody
  says that their meter stands still.
- (d) Prices in yuan per card and hour; whether a pod (a ready-made application) adds its own is
  not said: what it costs is looked up for images alone.
- (d) `charging_type` is a number without a key, and create calls take none: what we rent is by
  use. To adopt another, say in `by_use_charging_type` which number the console's hourly ones have.
- Not said anywhere: the billing unit (the hour assumed, per start), what a stopped instance
  costs, whether a power-off from inside stops the meter, whether and when one is deleted.
- (g) From stop to the meter's end 3 minutes, the timer's lateness 1 minute.

Sources: enterprise.chenyu.cn/api-reference (introduction, instance, gpu, bill, balance).
"""

from __future__ import annotations

from dataclasses import dataclass
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
    accept,
    has_words,
    here,
    made_view,
    need_image,
    pick_card,
    quantum_option,
    wish,
)
from costguard.providers.units import micros, ms_of_s, price_micros
from costguard.providers.wire import PAGE_LIMIT, Wire, understood

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from costguard.core.moment import Moment

BASE_URL = "https://www.chenyu.cn/api/open/v2"
PAGE = 50
WORK_DIR = "/root"

POWER = {
    1: Power.STARTING,
    2: Power.RUNNING,
    21: Power.STOPPING,
    22: Power.STOPPED,
    24: Power.STARTING,
    27: Power.STARTING,
}
SOLD_OUT = ("库存不足", "暂无库存", "资源不足", "售罄", "无可用")
ARREARS = ("余额不足", "欠费")
UNVERIFIED = ("实名",)
GONE = ("不存在", "not found")


@dataclass(frozen=True, slots=True)
class _Claim:
    """An unclear create: what was there before it, and what it asked for."""

    before: frozenset[str]
    gpu: str
    image: str


class Chenyu:
    """One chenyu account."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        token = secret_of(settings, "token")
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._wire = Wire.of(settings, BASE_URL, (token,), headers)
        self._quantum_s = quantum_option(settings, "hour")
        own = settings.get("by_use_charging_type")
        self._by_use = None if own is None else str(own)
        self._known = Known()
        self._tags: dict[str, str] = {}
        self._claims: dict[str, _Claim] = {}
        self.facts = ProviderFacts(
            name="chenyu",
            poll_interval_ms=ms_option(settings, "poll_interval_s", 15_000),
            cache_age_ms=15_000,
            stop_latency_ms=ms_option(settings, "stop_latency_s", 180_000),
            timer_min_lead_ms=300_000,
            timer_lateness_ms=60_000,
            arms_timer_at_create=False,
            in_guest_stop=guest_stop(settings),
            in_guest_stop_proven=False,
            in_guest_stop_given="in_guest_stop_command" in settings,
            client_key_source="password",
            tells_bill=False,
            keeps_tags=False,
            console_url="https://www.chenyu.cn/console/instance",
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The price of one card."""
        return self.price(wish(gpu))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """What this process rented under the tag, and what an unclear create of it came to."""
        found = {}
        for item in self._instances():
            with understood("chenyu list"):
                if self._tag(item).startswith(tag_prefix):
                    view = self._view(item, now)
                    found[view.id] = view
        return tuple(found.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance."""
        data = self._data("GET", "/instance/info", query={"instance_uuid": instance_id})
        with understood(f"chenyu {instance_id}"):
            if data["instance_uuid"] != instance_id:
                raise ValueError("another instance than was asked for")
            return self._view(data, now)

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one; what is there already is listed first, to know it from what this call makes."""
        image = need_image(request, "chenyu")
        here(request, (), "chenyu")
        kind = self._kind(request.gpu)
        quote = self._quote(kind, request.gpu_count)
        accept(request, quote, "chenyu")
        with understood("chenyu list"):
            before = frozenset(str(item["instance_uuid"]) for item in self._instances())
            gpu = str(kind["gpu_uuid"])
        self._claims[request.tag] = _Claim(before, gpu, image.removeprefix("pod:"))
        path, named = "/instance/create_by_image", {"image_uuid": image}
        if image.startswith("pod:"):
            path, named = "/instance/create_by_pod", {"pod_uuid": image.removeprefix("pod:")}
        body = {**named, "gpu_uuid": gpu, "gpu_nums": request.gpu_count, "title": request.tag}
        try:
            data = self._data("POST", path, body=body)
        except Refused:
            del self._claims[request.tag]
            raise
        with understood("chenyu create"):
            made = str(data["instance_uuid"])
        del self._claims[request.tag]
        self._tags[made] = request.tag
        try:
            return self.read(made, now)
        except ProviderError:
            return made_view(made, request, quote, now)  # rented: that must not get lost

    def start(self, instance_id: str) -> None:
        """Ask for power on with the cards that it was made with, never with others."""
        self._call("POST", "/instance/startup", body={"instance_uuid": instance_id})

    def stop(self, instance_id: str) -> None:
        """Ask for power off."""
        body = {"instance_uuid": instance_id}
        self._call("POST", "/instance/shutdown", body=body, urgent=True)

    def release(self, instance_id: str) -> None:
        """Give it back with its disk."""
        self._call("POST", "/instance/destroy", body={"instance_uuid": instance_id})

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Set the stop timer in Unix seconds and return what it is then set to."""
        body = {"instance_uuid": instance_id, "enable": True, "shutdown_time": at_ms // 1_000}
        self._call("POST", "/instance/shutdown_timer", body=body)
        data = self._data("GET", "/instance/info", query={"instance_uuid": instance_id})
        with understood(f"chenyu timer of {instance_id}"):
            return _timer_ms(data)

    def bill_micros(self, instance_id: str) -> int | None:
        """Not told: lines of the bill do not say which instance they are of."""
        del instance_id
        return None

    def balance_micros(self) -> int | None:
        """Cash and computing cards together."""
        data = self._data("GET", "/balance/info")
        with understood("chenyu balance"):
            return micros(data["balance"]) + micros(data.get("card_balance") or 0)

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """The price of so many cards."""
        return self._quote(self._kind(request.gpu), request.gpu_count)

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """Every card of the price list."""
        found = []
        for kind in self._kinds():
            with understood("chenyu offers"):
                quote = self._quote(kind, gpu_count)
            found.append(Offer(quote.gpu, gpu_count, quote.tariff, quote.in_stock))
        return tuple(found)

    def images(self, words: str) -> Sequence[ImageInfo]:
        """Images of the market, by words; their fields are not documented where we could read."""
        data = self._data("GET", "/image/market/list")
        found = []
        with understood("chenyu images"):
            for item in next(value for value in data.values() if isinstance(value, list)):
                uuid = str(item.get("image_uuid") or item["uuid"])
                name = str(item.get("image_name") or item.get("title") or "")
                says = str(item.get("remark") or item.get("desc") or "")
                image = ImageInfo(uuid, name, "market", says)
                if has_words(image, words):
                    found.append(image)
        return tuple(found)

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """The whole account's lines of that time: they do not say which instance they are of."""
        del instance_id
        found = []
        for item in self._pages("/bill/list", "order_list"):
            with understood("chenyu bill"):
                begun_ms = ms_of_s(item["settle_start_time"]) or 0
                line = BillLine(
                    instance_id="",
                    begun_ms=begun_ms,
                    ended_ms=ms_of_s(item["settle_end_time"]),
                    micros=micros(item["amount"]),
                    what=str(item.get("remark") or ""),
                )
            if since_ms <= begun_ms < until_ms:
                found.append(line)
        return tuple(found)

    def platform_ms(self) -> int | None:
        """The platform's clock, counted on since its last answer."""
        return self._wire.dates.now_ms()

    # ------------------------------------------------------------------ the calls

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        what = f"chenyu {path}"
        answer = self._wire.call(method, path, what=what, **options)
        error = _judge(answer.status, answer.body, what)
        if error is not None:
            raise self._wire.clean(error)
        return answer.body

    def _data(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        data = self._call(method, path, **options).get("data")
        if not isinstance(data, dict):
            raise Unclear(f"chenyu {path}: no data in the answer")
        return data

    def _pages(self, path: str, key: str) -> Iterator[Mapping[str, Any]]:
        """Every item once, also from a platform that would not mind the page it is asked for."""
        seen: set[str] = set()
        for page in range(1, PAGE_LIMIT):
            data = self._data("GET", path, query={"page": page, "page_size": PAGE})
            with understood(f"chenyu {path}"):
                items, total = list(data[key] or ()), int(data["total"])
                new = [item for item in items if str(item) not in seen]
                seen |= {str(item) for item in new}
            yield from new
            if not new or len(seen) >= total:
                return

    def _instances(self) -> Iterator[Mapping[str, Any]]:
        return self._pages("/instance/list", "instance_list")

    def _kinds(self) -> list[Mapping[str, Any]]:
        data = self._data("GET", "/gpu/list")
        with understood("chenyu cards"):
            return list(data["gpu_list"])

    def _kind(self, gpu: str | None) -> Mapping[str, Any]:
        kinds = self._kinds()
        with understood("chenyu cards"):
            for kind in kinds:
                if kind["gpu_uuid"] == gpu:
                    return kind
        return pick_card(gpu, kinds, lambda kind: str(kind["gpu_name"]), "chenyu")

    def _quote(self, kind: Mapping[str, Any], count: int) -> Quote:
        with understood("chenyu cards"):
            price = price_micros(kind["price"]["hour"]) * count
            tariff = Tariff(price_micros_per_hour=price, quantum_s=self._quantum_s)
            return Quote(str(kind["gpu_name"]), tariff, in_stock=int(kind["status"]) == 1)

    def _tag(self, item: Mapping[str, Any]) -> str:
        """The tag of an instance: its own id's, its title, or that of an unclear create."""
        instance_id, title = str(item["instance_uuid"]), str(item.get("title") or "")
        if instance_id in self._tags:
            return self._tags[instance_id]
        for tag, claim in list(self._claims.items()):
            if instance_id not in claim.before and item.get("gpu_uuid") == claim.gpu:
                image = item.get("image_uuid")
                if image in (None, "", claim.image):
                    return tag
        return title

    def _view(self, item: Mapping[str, Any], now: Moment) -> InstanceView:
        instance_id, status = str(item["instance_uuid"]), int(item["status"])
        power = POWER.get(status, Power.UNKNOWN)
        charge = str(item.get("charging_type", ""))
        by_use = None if self._by_use is None else charge == self._by_use
        if power is Power.STOPPED and by_use is False:
            power = Power.OFF_BILLING
        tag = self._tag(item)
        gpu, count = str(item["gpu_uuid"]), int(item["gpu_nums"])
        tariff = self._known.tariff(
            instance_id, self._told(item), lambda: self._quote(self._kind(gpu), count).tariff
        )
        return InstanceView(
            id=instance_id,
            tag=tag,
            gpu=str(item.get("gpu_name") or gpu),
            read=PowerRead(power=power, begun=now, timer_at_ms=_timer_ms(item)),
            tariff=tariff,
            ssh=_ssh(item) if power is Power.RUNNING else None,
            created_ms=ms_of_s(item.get("create_time")),
            gpu_count=count,
            charge_type=charge,
            status=str(status),
            unfit=_unfit(charge, by_use=by_use, is_ours=tag != str(item.get("title") or "")),
        )

    def _told(self, item: Mapping[str, Any]) -> Tariff | None:
        """The price now: instances do not tell theirs, the price list does, while one runs."""
        if POWER.get(int(item["status"])) is not Power.RUNNING:
            return None
        try:
            return self._quote(self._kind(str(item["gpu_uuid"])), int(item["gpu_nums"])).tariff
        except ProviderError:
            return None  # a price list that fails must not hide the power state


def _unfit(charge: str, *, by_use: bool | None, is_ours: bool) -> str | None:
    if by_use is False:
        return "it is not charged by use: a stop would not stop the meter"
    if by_use is None and not is_ours:
        return (
            f"whether its charging_type {charge} is by use is not documented: if the console says "
            f"so, set by_use_charging_type = {charge} under [providers.chenyu]"
        )
    return None


def _judge(status: int, body: Mapping[str, Any], what: str) -> ProviderError | None:
    code, message = body.get("code"), str(body.get("msg") or "")
    if not isinstance(code, int) or isinstance(code, bool):
        return Unclear(f"{what}: no code in the answer")
    if code == 0 and status // 100 == 2:
        return None
    said = f"({status} {code} {message})"
    if any(word in message for word in SOLD_OUT):
        return NoCapacity(f"{what}: sold out at the moment {said}")
    if any(word in message for word in ARREARS):
        return AccountRefused(f"{what}: the account is in arrears: top it up {said}")
    if any(word in message for word in UNVERIFIED):
        return AccountRefused(f"{what}: the account is not verified (实名): verify it {said}")
    if 401 in (status, code) or 403 in (status, code):
        return AuthRefused(
            f"{what}: the API key is wrong or expired: make a new one, 控制台 > API管理 {said}"
        )
    if 404 in (status, code) or any(word in message for word in GONE):
        return Absent(f"{what}: there is no such thing {said}")
    return Refused(f"{what}: refused {said}")


def _timer_ms(item: Mapping[str, Any]) -> int | None:
    """When the timer would stop it, in whatever unit the platform keeps it: read as seconds."""
    timer = item.get("shutdown_regular")
    if not isinstance(timer, dict) or not timer.get("enable"):
        return None
    return ms_of_s(timer.get("shutdown_time"))


def _ssh(item: Mapping[str, Any]) -> SshDetails | None:
    """How to log in; None where it is not told, which must not hide the power state."""
    try:
        info = next(entry["ssh_info"] for entry in item["server_map"] if entry.get("ssh_info"))
        host, port, user = str(info["host"]), int(info["port"]), str(info["username"])
        password = SecretStr(str(info["password"]))
    except (LookupError, TypeError, ValueError, StopIteration):
        return None
    return SshDetails(host, port, user, (), WORK_DIR, password)


DECLARATION = Declaration(
    name="chenyu",
    title="晨羽智云",
    credentials=(Credential("token", "API Key", "chenyu.cn 控制台 > API管理 (shown once)"),),
    options=(
        Option("by_use_charging_type", "which number hourly instances have: needed to adopt one"),
        Option("billing", "what a power interval is rounded up to: second, minute, hour", "hour"),
    ),
    open=Chenyu,
)
