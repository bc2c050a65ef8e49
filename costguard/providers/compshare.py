"""优云智算 Compshare (UCloud): signed RPC, a stop timer that can be moved and read back.

How sure each fact is: (d) documented by the platform, (s) seen by users, (g) guessed by us.
Nothing here was tried against a live account.

- (d) Every call is a POST of a form; the signature is SHA-1 over the sorted parameters and the
  private key. The keys never stand in a URL.
- (d) `ChargeType` is `Month` unless another is sent. Shutting down stops the meter of `Postpay`
  alone: `Month`, `Day`, `Dynamic` are prepaid, `Spot` may be taken away. We send `Postpay` and
  call everything else unfit.
- (d) The timer's field is `SchedulerStopTime`, at least 300 s ahead; the SDK's generated call
  sends `StopTime` instead. It is read back from DescribeCompShareInstance.
- (d) One operation at a time per instance: `InstanceOperationInProgress`, for up to 10 minutes.
- (d) The empty state means that the platform itself could not tell: unknown, never stopped.
- (d) The password is base64; (s) container images log in as root at port 23, others as ubuntu.
- (d) Billed "by the hour, afterwards"; (s) by the second. We assume the hour, per start, until
  `billing = "second"` says that a bill showed otherwise.
- (d) Off, disks beyond the free part keep costing; the price of disks is taken for that.
- (g) How long from stop to the meter's end (3 minutes assumed), how late a timer fires (1 minute),
  and that GetBalance and ListUBillDetail, documented for UCloud, answer at this address.

Sources: compshare.cn/docs/gpus (instance, image, error codes), the UCloud Python SDK's signature
and its test vector.
"""

from __future__ import annotations

import base64
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
    Offer,
    ProviderError,
    ProviderFacts,
    Quote,
    Refused,
    SshDetails,
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
    flat,
    has_words,
    here,
    made_view,
    need_image,
    pick_card,
    quantum_option,
    ssh_line,
    wish,
)
from costguard.providers.ucloud import judge, signature
from costguard.providers.units import micros, months_between, ms_of_s, price_micros
from costguard.providers.wire import PAGE_LIMIT, Wire, understood

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from costguard.core.moment import Moment

BASE_URL = "https://api.compshare.cn"
POSTPAY = "Postpay"
PAGE = 100
SYSTEM_DISK_GB = 60
DISK_PRICES = ("SystemDisks", "Disks")
TIMER_READS = 3  # the platform's own command line reads this often before it gives up

POWER = {
    "Initializing": Power.STARTING,
    "Install": Power.STARTING,
    "Starting": Power.STARTING,
    "Rebooting": Power.STARTING,
    "Running": Power.RUNNING,
    "Stopping": Power.STOPPING,
    "Stopped": Power.STOPPED,
}


class Compshare:
    """One Compshare account in one region and zone."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._public = secret_of(settings, "public_key")
        self._private = secret_of(settings, "private_key")
        self._region = str(settings.get("region", "cn-wlcb"))
        self._zone = str(settings.get("zone", "cn-wlcb-01"))
        self._project: str | None = settings.get("project_id")
        self._quantum_s = quantum_option(settings, "hour")
        self._known = Known()
        self._wire = Wire.of(settings, BASE_URL, (self._public, self._private))
        self.facts = ProviderFacts(
            name="compshare",
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
            console_url="https://console.compshare.cn/light-gpu/console/resources",
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The price of one card with the smallest machine around it."""
        return self.price(wish(gpu))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """Every instance whose name begins with `tag_prefix`, in all zones of the region."""
        found = {}
        for item in self._pages("DescribeCompShareInstance", "UHostSet", {}):
            with understood("compshare list"):
                if str(item["Name"]).startswith(tag_prefix):
                    found[str(item["UHostId"])] = self._view(item, now)
        return tuple(found.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance; a list that is empty says that it is absent."""
        body = self._call("DescribeCompShareInstance", {"UHostIds": [instance_id]})
        with understood(f"compshare {instance_id}"):
            items = [item for item in body["UHostSet"] if item["UHostId"] == instance_id]
            if items:
                return self._view(items[0], now)
            if body["UHostSet"]:
                raise ValueError("another instance than was asked for")
        raise Absent(f"compshare: there is no instance {instance_id}")

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one, postpaid; its timer can only be armed once it is there."""
        image = need_image(request, "compshare")
        here(request, (self._region, self._zone), "compshare")
        quote, spec = self._price(request)
        accept(request, quote, "compshare")
        params = {
            **spec,
            "CompShareImageId": image,
            "Name": request.tag,
            "Remark": request.name,
            "MaxCount": 1,
        }
        body = self._call("CreateCompShareInstance", params, zoned=True)
        with understood("compshare create"):
            made = str(body["UHostIds"][0])
        try:
            return self.read(made, now)
        except ProviderError:
            return made_view(made, request, quote, now)  # rented: that must not get lost

    def start(self, instance_id: str) -> None:
        """Ask for power on, with its cards."""
        params = {"UHostId": instance_id, "WithoutGpu": False}
        self._call("StartCompShareInstance", params, zoned=True)

    def stop(self, instance_id: str) -> None:
        """Ask for power off."""
        self._call("StopCompShareInstance", {"UHostId": instance_id}, zoned=True, urgent=True)

    def release(self, instance_id: str) -> None:
        """Give it back with its disks; the platform wants it stopped."""
        params = {"UHostId": instance_id, "ReleaseUDisk": True}
        self._call("TerminateCompShareInstance", params, zoned=True)

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Set the stop timer and read it back, a few times if it does not show at once."""
        wanted_s = at_ms // 1_000  # never later than asked
        params = {
            "UHostId": instance_id,
            "ProjectId": self._project_id(),
            "SchedulerStopTime": wanted_s,
        }
        self._call("UpdateCompShareStopScheduler", params, zoned=True)
        back: int | None = None
        for _ in range(TIMER_READS):
            body = self._call("DescribeCompShareInstance", {"UHostIds": [instance_id]})
            with understood(f"compshare timer of {instance_id}"):
                back = ms_of_s(body["UHostSet"][0].get("SchedulerStopTime"))
            if back == wanted_s * 1_000:
                break
        return back

    def bill_micros(self, instance_id: str) -> int | None:
        """Not told: that bills of instances can be read at this address is not proven."""
        del instance_id
        return None

    def balance_micros(self) -> int | None:
        """What the account has left; None where this address does not answer the question."""
        try:
            body = self._call("GetBalance", {})
        except (AuthRefused, AccountRefused):
            raise
        except Refused:
            return None
        with understood("compshare balance"):
            return micros(body["AccountInfo"]["AmountAvailable"])

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """The postpaid price of exactly this request."""
        return self._price(request)[0]

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """Every card type of the zone, priced one by one."""
        found = []
        for kind in self._kinds():
            with understood("compshare offers"):
                name, memory = str(kind["Name"]), int(kind["GraphicsMemory"]["Value"])
                in_stock = kind["Status"] == "Normal"
            try:
                quote = self.price(wish(name, gpu_count))
            except AuthRefused:
                raise
            except Refused:
                continue  # not with so many cards
            found.append(Offer(name, gpu_count, quote.tariff, in_stock, memory, self._zone))
        return tuple(found)

    def images(self, words: str) -> Sequence[ImageInfo]:
        """The platform's own images and the account's, by words."""
        found = []
        for action in ("DescribeCompShareImages", "DescribeCompShareCustomImages"):
            for item in self._pages(action, "ImageSet", {}):
                with understood("compshare images"):
                    tags = " ".join(str(tag) for tag in item.get("Tags") or ())
                    says = f"{tags} {item.get('Description') or ''}".strip()
                    kind = str(item.get("ImageType") or "Custom")
                    image = ImageInfo(str(item["CompShareImageId"]), str(item["Name"]), kind, says)
                if has_words(image, words):
                    found.append(image)
        return tuple(found)

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """The lines of UCloud's bill for one instance, month by month; none if not answered."""
        found = []
        for month in months_between(since_ms, until_ms):
            try:
                body = self._call(
                    "ListUBillDetail", {"BillingCycle": month, "ResourceIds": [instance_id]}
                )
            except Refused:
                return ()
            with understood("compshare bill"):
                found += [
                    BillLine(
                        instance_id=str(item["ResourceId"]),
                        begun_ms=ms_of_s(item["StartTime"]) or 0,
                        ended_ms=ms_of_s(item["EndTime"]),
                        micros=micros(item["Amount"]),
                        what=str(item.get("ChargeType", "")),
                    )
                    for item in body["Items"]
                ]
        return tuple(found)

    def platform_ms(self) -> int | None:
        """The platform's clock, counted on since its last answer."""
        return self._wire.dates.now_ms()

    # ------------------------------------------------------------------ the calls

    def _call(
        self, action: str, params: Mapping[str, Any], *, zoned: bool = False, urgent: bool = False
    ) -> dict[str, Any]:
        form = flat(
            {
                "Action": action,
                "Region": self._region,
                "Zone": self._zone if zoned else None,
                "ProjectId": self._project,
                "PublicKey": self._public.get_secret_value(),
                **params,
            }
        )
        form["Signature"] = signature(self._private, form)
        what = f"compshare {action}"
        body = self._wire.call("POST", "/", form=form, what=what, urgent=urgent).body
        error = judge(body, what)
        if error is not None:
            raise self._wire.clean(error)
        return body

    def _pages(
        self, action: str, key: str, params: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        """Every item of a list; an offset beyond the total would be an error (d)."""
        seen = 0
        for _ in range(PAGE_LIMIT):
            body = self._call(action, {**params, "Offset": seen, "Limit": PAGE})
            with understood(action):
                items, total = list(body[key] or ()), int(body["TotalCount"])
            yield from items
            seen += len(items)
            if not items or seen >= total:
                return

    def _project_id(self) -> str:
        if self._project is None:
            body = self._call("GetProjectList", {})
            with understood("compshare projects"):
                projects = body["ProjectSet"]
                default = [item for item in projects if item.get("IsDefault")] or projects
                self._project = str(default[0]["ProjectId"])
        return self._project

    def _kinds(self) -> list[Mapping[str, Any]]:
        body = self._call("DescribeAvailableCompShareInstanceTypes", {}, zoned=True)
        with understood("compshare machine types"):
            return [kind for kind in body["AvailableInstanceTypes"] if kind["Zone"] == self._zone]

    def _price(self, request: CreateRequest) -> tuple[Quote, dict[str, Any]]:
        """The quote, and the machine that it is for: the smallest with so many cards."""
        kind = pick_card(request.gpu, self._kinds(), lambda kind: str(kind["Name"]), "compshare")
        with understood("compshare machine types"):
            name = str(kind["Name"])
            sizes = {int(size["Gpu"]): size["Collection"] for size in kind["MachineSizes"]}
            if request.gpu_count not in sizes:
                raise Refused(f"compshare: {name} comes with {sorted(sizes)} cards")
            machine = min(sizes[request.gpu_count], key=lambda size: int(size["Cpu"]))
            cpus, memory_mb = int(machine["Cpu"]), 1_024 * min(map(int, machine["Memory"]))
        disks = _disks(request)
        price = {
            "GpuType": name,
            "Gpu": request.gpu_count,
            "Cpu": cpus,
            "Memory": memory_mb,
            "ChargeType": POSTPAY,
            "Disks": disks,
            "CompShareImageId": request.image,
        }
        body = self._call("GetCompShareInstancePrice", price, zoned=True)
        with understood("compshare price"):
            found = _postpay(body["PriceDetails"])
            if found.get("InstanceDiscountType"):  # a night's or a holiday's: it will end
                found = _postpay(body["OriginalPriceDetails"])
            disks_micros = sum(price_micros(found.get(key) or 0) for key in DISK_PRICES)
            image_micros = price_micros(found.get("CompShareImage") or 0)
            tariff = self._tariff(price_micros(found["Instance"]) + image_micros, disks_micros)
        quote = Quote(name, tariff, str(kind.get("Status")) == "Normal")
        spec = {
            "GpuType": name,
            "GPU": request.gpu_count,
            "CPU": cpus,
            "Memory": memory_mb,
            "MachineType": "G",
            "ChargeType": POSTPAY,
            "Disks": disks,
        }
        return quote, spec

    def _tariff(self, running_micros: int, disk_micros: int) -> Tariff:
        return Tariff(
            price_micros_per_hour=running_micros + disk_micros,
            quantum_s=self._quantum_s,
            paused_micros_per_hour=disk_micros,
        )

    def _view(self, item: Mapping[str, Any], now: Moment) -> InstanceView:
        status, charge = str(item["State"]), str(item["ChargeType"])
        power = POWER.get(status, Power.UNKNOWN)
        if power is Power.STOPPED and charge != POSTPAY:
            power = Power.OFF_BILLING  # prepaid: off, and paid for all the same
        disk = price_micros(item.get("DiskPrice") or 0)
        running = price_micros(item.get("InstancePrice") or 0)
        image = price_micros(item.get("CompShareImagePrice") or 0)
        gpu, count = str(item["GpuType"]), int(item["GPU"])
        tariff = self._known.tariff(
            str(item["UHostId"]),
            self._tariff(running + image, disk) if running else None,
            lambda: self.price(wish(gpu, count)).tariff,
        )
        read = PowerRead(
            power=power,
            begun=now,
            price_micros_per_hour=tariff.price_micros_per_hour,
            timer_at_ms=ms_of_s(item.get("SchedulerStopTime")),
        )
        return InstanceView(
            id=str(item["UHostId"]),
            tag=str(item["Name"]),
            gpu=gpu,
            read=read,
            tariff=tariff,
            ssh=_ssh(item) if power is Power.RUNNING else None,
            created_ms=ms_of_s(item.get("CreateTime")),
            gpu_count=count,
            charge_type=charge,
            status=status,
            unfit=None if charge == POSTPAY else _unfit(charge),
            release_at_ms=ms_of_s(item.get("ReleaseTime")),
        )


def _unfit(charge: str) -> str:
    return (
        f"it is charged as {charge}: shutting it down would not stop the meter; "
        "only Postpay (按量) instances can be kept under a cap"
    )


def _postpay(details: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(item for item in details if item["ChargeType"] == POSTPAY)


def _disks(request: CreateRequest) -> list[dict[str, Any]]:
    size_gb = request.system_disk_gb or SYSTEM_DISK_GB
    disks = [{"IsBoot": True, "Type": "CLOUD_SSD", "Size": size_gb}]
    if request.data_disk_gb:
        disks.append({"IsBoot": False, "Type": "CLOUD_SSD", "Size": request.data_disk_gb})
    return disks


def _ssh(item: Mapping[str, Any]) -> SshDetails | None:
    """How to log in; None where it is not understood, which must not hide the power state."""
    try:
        host, port, user = ssh_line(str(item["SshLoginCommand"]))
        coded = base64.b64decode(str(item.get("Password") or ""), validate=True)
        password = coded.decode()
    except (LookupError, ValueError):
        return None
    home = "/root" if user == "root" else f"/home/{user}"
    return SshDetails(host, port, user, (), home, SecretStr(password) if password else None)


DECLARATION = Declaration(
    name="compshare",
    title="优云智算 Compshare",
    credentials=(
        Credential("public_key", "API 公钥", "console.compshare.cn/uaccount/api_manage"),
        Credential("private_key", "API 私钥", "console.compshare.cn/uaccount/api_manage"),
    ),
    options=(
        Option("region", "地域", "cn-wlcb"),
        Option("zone", "可用区", "cn-wlcb-01"),
        Option("project_id", "项目 ID; found by itself where it is left out"),
        Option("billing", "what a power interval is rounded up to: second, minute, hour", "hour"),
    ),
    open=Compshare,
)
