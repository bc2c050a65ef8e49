"""AutoDL 容器实例 Pro: no stop timer, no price list, and a "no stock" that only words tell.

How sure each fact is: (d) documented by the platform, (s) seen by users, (g) guessed by us.
Nothing here was tried against a live account.

- (d) The token stands bare in `Authorization`, without "Bearer". The API wants an account that
  is verified by name; `TORealName` says that it is not (s).
- (s) Status and details are a GET with a query string alone: the page shows a JSON body, with
  which the platform answers `RequestParameterIsWrong`.
- (d) Amounts are thousandths of a yuan. (s) `blocked_asset` is part of `assets` and not to spend.
- (s) No stock is `InternalError`, told apart by its words (暂无库存) alone.
- (s) A power-off that comes while the instance is starting is accepted and lost.
- (d) Billed by the second, settled on the hour and at power-off, 0.01 yuan at least; paid
  disk expansion goes on costing while it is off.
- (d) The price is told of instances that exist, not of what could be rented: what the console
  shows belongs into `prices_yuan_per_hour`.
- (d) Off for 15 days, an instance is released and its data gone (said of 容器实例; (g) of Pro).
- (d) There is no call that sets a timer; one set in the console is read back, in lists alone.
- (s) From inside, the platform's own shutdown helper powers ordinary instances off; of Pro there
  is one report. We call nothing of it proven: name it in `in_guest_stop_command`.
- (s) Whether base images work here: sources differ, so that private images alone are listed.
- (g) From stop to the meter's end: 3 minutes assumed.

Sources: autodl.com/docs (common_api, instance_pro_api, price, save_money, instance_data), public
clients that say they were run.
"""

from __future__ import annotations

import contextlib
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
    wish,
)
from costguard.providers.units import milli_micros, ms_of_rfc3339
from costguard.providers.wire import PAGE_LIMIT, Wire, understood

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from costguard.core.moment import Moment

BASE_URL = "https://api.autodl.com"
API = "/api/v1/dev/instance/pro"
PAGE = 100
RELEASE_AFTER_DAYS = 15
DAY_MS = 86_400_000
LEAST_MICROS = 10_000  # (d) what is charged at least for a start
STARTING_RETRY_S = 5.0
WORK_DIR = "/root/autodl-tmp"  # (d) the data disk, kept while the instance is off

# The platform's ids of its cards, and what they are (s).
CARDS = {
    "h800": "H800",
    "v-48g": "RTX 4090 48G",
    "v-48g-350w": "RTX 3090 48G",
    "v-32g-p": "RTX 4080S 32G",
    "pro6000-p": "RTX PRO 6000",
    "5090-p": "RTX 5090",
    "4090D": "RTX 4090D",
}
POWER = {
    "creating": Power.STARTING,
    "starting": Power.STARTING,
    "powering_on": Power.STARTING,
    "running": Power.RUNNING,
    "shutting_down": Power.STOPPING,
    "shutdown": Power.STOPPED,
}
SOLD_OUT = ("暂无库存", "库存不足", "售罄")
ARREARS = ("余额不足", "欠费")


class AutoDl:
    """One AutoDL account."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        token = secret_of(settings, "token")
        self._wire = Wire.of(
            settings, BASE_URL, (token,), {"Authorization": token.get_secret_value()}
        )
        self._cuda = int(str(settings.get("cuda_v_from", "118")))
        self._prices = PriceBook("autodl", CARDS, settings, minimum_micros=LEAST_MICROS)
        self._known = Known()
        self._names: dict[str, str] = {}
        self.facts = ProviderFacts(
            name="autodl",
            poll_interval_ms=ms_option(settings, "poll_interval_s", 15_000),
            cache_age_ms=10_000,
            stop_latency_ms=ms_option(settings, "stop_latency_s", 180_000),
            timer_min_lead_ms=None,
            timer_lateness_ms=0,
            arms_timer_at_create=False,
            in_guest_stop=guest_stop(settings),
            in_guest_stop_proven=False,
            in_guest_stop_given="in_guest_stop_command" in settings,
            client_key_source="password",
            tells_bill=False,
            tells_stock=False,
            tells_prices=False,
            release_after_off_days=RELEASE_AFTER_DAYS,
            console_url="https://www.autodl.com/console/instance/list",
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The price of one card, as the config says that the console shows it."""
        return self.price(wish(gpu))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """Every instance whose name begins with `tag_prefix`, all pages."""
        found = {}
        for item in self._pages(f"{API}/list"):
            with understood("autodl list"):
                if str(item.get("name") or "").startswith(tag_prefix):
                    view = self._listed(item, now)
                    found[view.id] = view
        return tuple(found.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance: its power state, then price and login where it is not off."""
        status = self._status(instance_id)
        power = POWER.get(status, Power.UNKNOWN)
        details: Mapping[str, Any] = {}
        if power is not Power.STOPPED:
            details = self._data("GET", f"{API}/snapshot", query={"instance_uuid": instance_id})
        if instance_id not in self._names or power is Power.STOPPED:
            # Lists alone tell the name, and since when it is off; the state is known without.
            with contextlib.suppress(Unclear):
                item = self._find(instance_id)
                if item is not None:
                    return self._view(item, status, details, now)
        with understood(f"autodl {instance_id}"):
            named = {"uuid": instance_id, "name": self._names.get(instance_id, "")}
            return self._view({**details, **named}, status, details, now)

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one; the platform switches it on by itself."""
        image = need_image(request, "autodl")
        quote = self.price(request)
        accept(request, quote, "autodl")
        body = {
            "req_gpu_amount": request.gpu_count,
            "expand_system_disk_by_gb": request.system_disk_gb or 0,
            "gpu_spec_uuid": quote.gpu,
            "image_uuid": image,
            "cuda_v_from": self._cuda,
            "instance_name": request.tag,
        }
        if request.region is not None:
            body["data_center_list"] = [request.region]
        answer = self._call("POST", f"{API}/create", body=body)
        with understood("autodl create"):
            data = answer["data"]
            made = data["instance_uuid"] if isinstance(data, dict) else data
            if not isinstance(made, str) or not made:
                raise ValueError("no id")
        self._names[made] = request.tag
        try:
            return self.read(made, now)
        except ProviderError:
            return made_view(made, request, quote, now)  # rented: that must not get lost

    def start(self, instance_id: str) -> None:
        """Ask for power on, with its cards."""
        body = {"instance_uuid": instance_id, "payload": "gpu"}
        self._call("POST", f"{API}/power_on", body=body)

    def stop(self, instance_id: str) -> None:
        """Ask for power off; unclear while it is starting, when the platform loses the call."""
        body = {"instance_uuid": instance_id}
        self._call("POST", f"{API}/power_off", body=body, urgent=True)
        try:
            status = self._status(instance_id, urgent=True)
        except ProviderError:
            return  # accepted; whether it took effect is read later, as always
        if POWER.get(status) is Power.STARTING:
            raise Unclear(
                f"autodl: {instance_id} is still {status}, and a power-off is lost until it runs",
                STARTING_RETRY_S,
            )

    def release(self, instance_id: str) -> None:
        """Give it back with its data; the platform wants it off."""
        self._call("POST", f"{API}/release", body={"instance_uuid": instance_id})

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Nothing: the platform has no call for it."""
        del instance_id, at_ms
        return None

    def bill_micros(self, instance_id: str) -> int | None:
        """Not told by the API."""
        del instance_id
        return None

    def balance_micros(self) -> int | None:
        """What is left to spend: assets that are not blocked."""
        data = self._data("POST", "/api/v1/dev/wallet/balance")
        with understood("autodl balance"):
            return milli_micros(data["assets"]) - milli_micros(data.get("blocked_asset") or 0)

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """From the config's price list; whether there is stock, only renting tells."""
        card, tariff = self._prices.find(request.gpu, request.gpu_count)
        return Quote(card, tariff, in_stock=True)

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """The cards that the config has a price of."""
        return tuple(
            Offer(card, gpu_count, tariff, None, note=CARDS.get(card, ""))
            for card, tariff in self._prices.all(gpu_count)
        )

    def images(self, words: str) -> Sequence[ImageInfo]:
        """The account's own images, by words."""
        found = []
        for item in self._pages(f"{API}/image/private/list"):
            with understood("autodl images"):
                name = str(item.get("image_name") or item.get("name") or "")
                status = str(item.get("status") or "")
                image = ImageInfo(str(item["image_uuid"]), name, "private", status)
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
        what = f"autodl {path.removeprefix('/api/v1/dev/')}"
        body = self._wire.call(method, path, what=what, **options).body
        error = _judge(body, what)
        if error is not None:
            raise self._wire.clean(error)
        return body

    def _data(self, method: str, path: str, **options: Any) -> Mapping[str, Any]:
        body = self._call(method, path, **options)
        data = body.get("data")
        if not isinstance(data, dict):
            raise Unclear(f"autodl {path}: no data in the answer")
        return data

    def _status(self, instance_id: str, *, urgent: bool = False) -> str:
        query = {"instance_uuid": instance_id}
        body = self._call("GET", f"{API}/status", query=query, urgent=urgent)
        status = body.get("data")
        if not isinstance(status, str):
            raise Unclear("autodl status: no state in the answer")
        return status

    def _pages(self, path: str) -> Iterator[Mapping[str, Any]]:
        for page in range(1, PAGE_LIMIT):
            data = self._data("POST", path, body={"page_index": page, "page_size": PAGE})
            with understood(f"autodl {path}"):
                items, last = list(data["list"] or ()), int(data.get("max_page") or 1)
            yield from items
            if page >= last or not items:
                return

    def _find(self, instance_id: str) -> Mapping[str, Any] | None:
        for item in self._pages(f"{API}/list"):
            with understood("autodl list"):
                if item["uuid"] == instance_id:
                    return item
        return None

    def _listed(self, item: Mapping[str, Any], now: Moment) -> InstanceView:
        return self._view(item, str(item["status"]), {}, now)

    def _view(
        self,
        item: Mapping[str, Any],
        status: str,
        details: Mapping[str, Any],
        now: Moment,
    ) -> InstanceView:
        """One instance from its list entry and its details, either of which may be lacking."""
        with understood(f"autodl {item.get('uuid')}"):
            instance_id, power = str(item["uuid"]), POWER.get(status, Power.UNKNOWN)
            name = str(item.get("name") or "")
            if name:
                self._names[instance_id] = name
            card = str(item.get("gpu_spec_uuid") or details.get("gpu_spec_uuid") or "") or None
            count = int(item.get("req_gpu_amount") or details.get("req_gpu_amount") or 1)
            told = details.get("payg_price")
            tariff = self._known.tariff(
                instance_id,
                _tariff(told) if told else None,
                lambda: self._prices.find(card, count)[1],
            )
            charge = str(item.get("charge_type") or "payg")
            timer_ms, off_ms = _at(item.get("timed_shutdown_at")), _at(item.get("stopped_at"))
            is_off = power is Power.STOPPED and off_ms is not None
        if power is Power.STOPPED and charge != "payg":
            power = Power.OFF_BILLING
        return InstanceView(
            id=instance_id,
            tag=self._names.get(instance_id, ""),
            gpu=card,
            read=PowerRead(power=power, begun=now, timer_at_ms=timer_ms),
            tariff=tariff,
            ssh=_ssh(details) if power is Power.RUNNING else None,
            created_ms=_at(item.get("created_at")),
            gpu_count=count,
            charge_type=charge,
            status=status,
            unfit=None if charge == "payg" else f"it is charged as {charge}, not by use (payg)",
            release_at_ms=(off_ms or 0) + RELEASE_AFTER_DAYS * DAY_MS if is_off else None,
        )


def _tariff(milli_yuan_per_hour: Any) -> Tariff:
    price = milli_micros(milli_yuan_per_hour)
    return Tariff(price_micros_per_hour=price, minimum_micros=LEAST_MICROS)


def _judge(body: Mapping[str, Any], what: str) -> ProviderError | None:
    code, message = body.get("code"), str(body.get("msg") or "")
    if code == "Success":
        return None
    said = f"({code} {message})"
    if any(word in message for word in SOLD_OUT):
        return NoCapacity(f"{what}: sold out at the moment {said}")
    if any(word in message for word in ARREARS):
        return AccountRefused(f"{what}: the account is in arrears: top it up {said}")
    if code == "TORealName":
        return AccountRefused(
            f"{what}: the account is not verified (实名认证): verify it in the console {said}"
        )
    if code == "AuthorizeFailed":
        return AuthRefused(
            f"{what}: the token is wrong or expired: make a new one in the console, "
            f"账号 > 设置 > 开发者Token {said}"
        )
    if code == "RecordNotFoundError":
        return Absent(f"{what}: there is no such instance {said}")
    if code == "RequestParameterIsWrong":
        return Refused(f"{what}: check the job's image, gpu and region {said}")
    # Codes are not documented: one that nobody knows is no proof that nothing happened.
    return Unclear(f"{what}: not understood {said}")


def _at(value: Any) -> int | None:
    """The time in `{"Time": ..., "Valid": true}`, or in a plain text."""
    if isinstance(value, dict):
        return ms_of_rfc3339(value.get("Time")) if value.get("Valid") else None
    return ms_of_rfc3339(value)


def _ssh(details: Mapping[str, Any]) -> SshDetails | None:
    """How to log in; None where it is not told, which must not hide the power state."""
    try:
        host, port = str(details["proxy_host"]), int(details["ssh_port"])
        password = SecretStr(str(details["root_password"]))
    except (LookupError, TypeError, ValueError):
        return None
    return SshDetails(host, port, "root", (), WORK_DIR, password)


DECLARATION = Declaration(
    name="autodl",
    title="AutoDL 容器实例 Pro",
    credentials=(
        Credential("token", "开发者Token", "autodl.com 控制台 > 账号 > 设置 > 开发者Token"),
    ),
    options=(
        Option("prices_yuan_per_hour", 'a card\'s price in the console: { "v-48g" = 2.98 }'),
        Option("cuda_v_from", "the lowest CUDA of the host: 118 is 11.8", "118"),
    ),
    open=AutoDl,
)
