"""RunPod, REST v2 (v1 is retired), and GraphQL for what v2 has not: balance, deadline at create.

How sure each fact is: (d) documented by the platform, (s) seen by users, (g) guessed by us.
Nothing here was tried against a live account; requests and answers are checked against the
published OpenAPI document.

- (d) US dollars, by the second; `cost` is 0.0 once a pod is EXITED: that, and nothing less, is
  taken as the end of the meter. Whether `cost` holds the disks is not said: they are added.
- (d) Per GB and month of 730 hours: container and volume 0.10 while running, the volume 0.20
  while stopped. The container's disk is erased by a stop: work belongs onto the volume.
- (d) An action that does not fit the pod's state is a 409; a start may find no GPU on the host
  that the pod is tied to, and (s) then comes up with none, or fails with words.
- (d) `PUT ssh-keys` replaces all keys: they are read first, and ours is added. Between the two
  calls somebody else's new key can be lost; that is done once for a key, not at each create.
- (d) No timer in v2. `stopAfter` of GraphQL is taken at create alone and cannot be read back: a
  fixed deadline, where `stop_after_hours` asks for one, gone after a resume.
- (d) At a balance of 0, pods without a network volume are deleted.
- (d) From inside, `runpodctl` with the pod's own key stops the pod; not proven by us.
- (d) 429 has `Retry-After`. (s) No capacity is told in words, on a 500 too.
- (g) From stop to the meter's end: 1 minute.

Sources: docs.runpod.io (api-reference-v2, pods/pricing, pods/troubleshooting/zero-gpus,
accounts-billing), github.com/runpod/runpodctl, issues of runpod-python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.core.power import Power, PowerRead
from costguard.errors import UserError
from costguard.providers.base import (
    Absent,
    AccountRefused,
    AuthRefused,
    BillLine,
    Busy,
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
    DOLLARS,
    Credential,
    Declaration,
    Option,
    dollar_option,
    guest_stop,
    ms_option,
    secret_of,
)
from costguard.providers.shared import Known, accept, made_view, need_image, pick_card, wish
from costguard.providers.units import (
    decimal,
    micros,
    monthly_micros,
    ms_of_rfc3339,
    price_micros,
    rfc3339,
)
from costguard.providers.wire import Wire, understood

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from costguard.core.moment import Moment
    from costguard.core.tariff import Tariff

BASE_URL = "https://api.runpod.io"
WORK_DIR = "/workspace"
CONTAINER_GB = 30
VOLUME_GB = 50
RUNNING_USD_PER_GB_MONTH = "0.10"
STOPPED_USD_PER_GB_MONTH = "0.20"
BUSY_RETRY_S = 5.0
POWER = {
    "PROVISIONING": Power.STARTING,
    "STARTING": Power.STARTING,
    "RUNNING": Power.RUNNING,
    "EXITED": Power.STOPPED,
    "TERMINATED": Power.RELEASED,
}
SOLD_OUT = (
    "not enough free gpus",
    "no longer any instances available",
    "no instances available",
    "no gpus available",
)
DEPLOY = """mutation($input: PodFindAndDeployOnDemandInput!) {
  podFindAndDeployOnDemand(input: $input) { id }
}"""


class RunPod:
    """One RunPod account."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        token = secret_of(settings, "token")
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._wire = Wire.of(settings, BASE_URL, (token,), headers)
        self._dollar = dollar_option(settings, "runpod")
        self._rate = self._dollar.yuan_micros
        self._cloud = str(settings.get("cloud", "SECURE")).upper()
        if self._cloud not in ("SECURE", "COMMUNITY"):
            raise UserError(
                "bad_config", f"cloud = {self._cloud!r}", "cloud", "SECURE or COMMUNITY"
            )
        deadline = settings.get("stop_after_hours")
        self._stop_after_ms = None if deadline is None else int(decimal(deadline) * 3_600_000)
        self._known = Known()
        self._keyed: set[str] = set()  # public keys that the account surely has
        self.facts = ProviderFacts(
            name="runpod",
            poll_interval_ms=ms_option(settings, "poll_interval_s", 15_000),
            cache_age_ms=10_000,
            stop_latency_ms=ms_option(settings, "stop_latency_s", 60_000),
            timer_min_lead_ms=None,
            timer_lateness_ms=60_000 if self._stop_after_ms else 0,
            arms_timer_at_create=False,
            in_guest_stop=guest_stop(settings) or ("sh", "-c", "runpodctl pod stop $RUNPOD_POD_ID"),
            in_guest_stop_proven=False,
            in_guest_stop_given="in_guest_stop_command" in settings,
            client_key_source="account",
            timer_is_fixed=self._stop_after_ms is not None,
            currency="USD",
            yuan_per_unit_micros=self._rate,
            console_url="https://console.runpod.io/pods",
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The price of one card with the usual disks."""
        return self.price(wish(gpu))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """Every pod whose name begins with `tag_prefix`; the list comes in one piece (d)."""
        body = self._call("GET", "/v2/pods")
        with understood("runpod list"):
            views = [
                self._view(pod, now)
                for pod in body["pods"]
                if str(pod["name"]).startswith(tag_prefix) and pod["status"] != "TERMINATED"
            ]
        return tuple({view.id: view for view in views}.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One pod."""
        body = self._call("GET", f"/v2/pods/{instance_id}")
        with understood(f"runpod {instance_id}"):
            if body["id"] != instance_id:
                raise ValueError("another pod than was asked for")
            return self._view(body, now)

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent a pod with our key in the account and a volume that outlives a stop."""
        image = need_image(request, "runpod")
        quote = self.price(request)
        accept(request, quote, "runpod")
        self._register(request.ssh_public_key)
        if self._stop_after_ms is not None:
            made = self._deploy(request, quote.gpu, image, now.utc_ms + self._stop_after_ms)
            return made_view(made, request, quote, now)
        container_gb, volume_gb = _disks(request)
        body: dict[str, Any] = {
            "name": request.tag,
            "image": image,
            "gpu": {"id": quote.gpu, "count": request.gpu_count},
            "cloud": self._cloud,
            "disk": container_gb,
            "mounts": {"persistent": {"size": volume_gb, "path": WORK_DIR}},
            "ports": ["22/tcp"],
            "startSsh": True,
        }
        if request.region is not None:
            body["dataCenterIds"] = [request.region]
        answer = self._call("POST", "/v2/pods", body=body)
        with understood("runpod create"):
            made = str(answer["id"])
        try:
            with understood("runpod create"):
                return self._view(answer, now)
        except ProviderError:
            return made_view(made, request, quote, now)  # rented: that must not get lost

    def start(self, instance_id: str) -> None:
        """Ask for power on; a pod that comes up without its card is stopped again at once."""
        answer = self._act(instance_id, "start")
        if _cards(answer) == 0:
            self._act(instance_id, "stop", urgent=True)
            raise NoCapacity(
                f"runpod: {instance_id} came up without a GPU, and was told to stop: "
                "its host has none free"
            )

    def stop(self, instance_id: str) -> None:
        """Ask for power off."""
        self._act(instance_id, "stop", urgent=True)

    def release(self, instance_id: str) -> None:
        """Give it back with its volume."""
        self._call("DELETE", f"/v2/pods/{instance_id}")

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Nothing: a deadline is taken at create alone."""
        del instance_id, at_ms
        return None

    def bill_micros(self, instance_id: str) -> int | None:
        """What the last 90 days' bill says of this pod."""
        body = self._billing(instance_id, {"bucketSize": "day", "lastN": 90})
        with understood("runpod bill"):
            return sum(micros(item["totalAmount"], self._rate) for item in body["records"])

    def balance_micros(self) -> int | None:
        """What the account has left, at the config's rate."""
        data = self._graphql("balance", "{ myself { clientBalance } }", {})
        with understood("runpod balance"):
            return micros(data["myself"]["clientBalance"], self._rate)

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """Cards and disks, at the config's rate."""
        kind = pick_card(
            request.gpu,
            self._kinds(request.gpu_count),
            lambda kind: str(kind["id"]),
            "runpod",
        )
        return self._quote(kind, request.gpu_count, _disks(request))

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """Every card of the cloud tier, with its stock for so many."""
        found = []
        for kind in self._kinds(gpu_count):
            with understood("runpod offers"):
                memory, level = int(kind["memory"]), str(kind.get("availability", ""))
            quote = self._quote(kind, gpu_count, _disks(wish(None)))
            offer = Offer(
                quote.gpu, gpu_count, quote.tariff, quote.in_stock, memory, note=level.lower()
            )
            found.append(offer)
        return tuple(found)

    def images(self, words: str) -> Sequence[ImageInfo]:
        """Refused: any Docker image can be named."""
        del words
        raise Refused(
            "runpod: any Docker image will do that starts an SSH server for PUBLIC_KEY, "
            "as RunPod's own do (runpod/pytorch); name it in the job"
        )

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """The bill of one pod, hour by hour."""
        window = {"startTime": rfc3339(since_ms), "endTime": rfc3339(until_ms)}
        body = self._billing(instance_id, {"bucketSize": "hour", **window})
        with understood("runpod bill"):
            return tuple(
                BillLine(
                    instance_id=str(item["podId"]),
                    begun_ms=ms_of_rfc3339(item["startTime"]) or 0,
                    ended_ms=ms_of_rfc3339(item["endTime"]),
                    micros=micros(item["totalAmount"], self._rate),
                    what=f"GPU {item['gpuAmount']}, disk {item['diskAmount']} USD",
                )
                for item in body["records"]
            )

    def platform_ms(self) -> int | None:
        """The platform's clock, counted on since its last answer."""
        return self._wire.dates.now_ms()

    # ------------------------------------------------------------------ the calls

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        what = f"runpod {path.removeprefix('/v2/')}"
        answer = self._wire.call(method, path, what=what, heard=SOLD_OUT, **options)
        error = _judge(answer.status, answer.body, what)
        if error is not None:
            raise self._wire.clean(error)
        return answer.body

    def _act(self, instance_id: str, action: str, *, urgent: bool = False) -> dict[str, Any]:
        path = f"/v2/pods/{instance_id}/action"
        answer = self._call("POST", path, body={"action": action}, urgent=urgent)
        if answer.get("id") != instance_id:
            raise Unclear(f"runpod {action} {instance_id}: the answer is not understood")
        return answer

    def _graphql(self, what: str, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        body = {"query": query, "variables": dict(variables)}
        answer = self._wire.call(
            "POST", "/graphql", body=body, what=f"runpod {what}", heard=SOLD_OUT
        )
        errors = answer.body.get("errors")
        if errors or answer.status // 100 != 2:
            with understood(f"runpod {what}"):
                said = str(errors[0]["message"]) if errors else ""
            words = {"detail": said, "title": "", "status": answer.status}
            error = _judge(answer.status if answer.status // 100 != 2 else 400, words, what)
            raise self._wire.clean(error or Unclear(f"runpod {what}: not understood"))
        data = answer.body.get("data")
        if not isinstance(data, dict):
            raise Unclear(f"runpod {what}: no data in the answer")
        return data

    def _deploy(self, request: CreateRequest, gpu: str, image: str, until_ms: int) -> str:
        """Create by GraphQL, which alone takes a deadline; the id of the new pod."""
        container_gb, volume_gb = _disks(request)
        wanted = {
            "name": request.tag,
            "imageName": image,
            "gpuTypeId": gpu,
            "gpuCount": request.gpu_count,
            "cloudType": self._cloud,
            "containerDiskInGb": container_gb,
            "volumeInGb": volume_gb,
            "volumeMountPath": WORK_DIR,
            "ports": "22/tcp",
            "startSsh": True,
            "stopAfter": rfc3339(until_ms),
        }
        if request.region is not None:
            wanted["dataCenterId"] = request.region
        data = self._graphql("create", DEPLOY, {"input": wanted})
        with understood("runpod create"):
            made = data["podFindAndDeployOnDemand"]
            if made is None:
                raise NoCapacity("runpod: nothing of that kind is free at the moment")
            return str(made["id"])

    def _register(self, public_key: str) -> None:
        """Have our key among the account's, without losing any: the call replaces them all."""
        key = public_key.strip()
        if key in self._keyed:
            return
        body = self._call("GET", "/v2/account/ssh-keys")
        with understood("runpod ssh-keys"):
            keys = [str(one) for one in body["keys"]]
        if key not in keys:
            self._call("PUT", "/v2/account/ssh-keys", body={"keys": [*keys, key]})
        self._keyed.add(key)

    def _billing(self, instance_id: str, query: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("GET", "/v2/billing/pods", query={"podId": instance_id, **query})

    def _kinds(self, count: int) -> list[Mapping[str, Any]]:
        """The cards that this cloud tier has machines of with so many."""
        query = {"include": "AVAILABILITY", "product": "POD", "count": count, "cloud": self._cloud}
        body = self._call("GET", "/v2/catalog/gpus", query=query)
        tier = self._cloud.lower()
        with understood("runpod catalog"):
            return [kind for kind in body["gpus"] if kind[tier] and kind["price"][tier]]

    def _quote(self, kind: Mapping[str, Any], count: int, disks: tuple[int, int]) -> Quote:
        with understood("runpod catalog"):
            usd = decimal(kind["price"][self._cloud.lower()]) * count
            tariff = self._tariff(usd, disks)
            return Quote(str(kind["id"]), tariff, kind.get("availability", "NONE") != "NONE")

    def _tariff(self, usd_per_hour: Any, disks: tuple[int, int]) -> Tariff:
        running = monthly_micros(RUNNING_USD_PER_GB_MONTH, sum(disks))
        return self._dollar.tariff(
            price_micros(usd_per_hour) + running,
            quantum_s=1,
            paused_micros_per_hour=monthly_micros(STOPPED_USD_PER_GB_MONTH, disks[1], self._rate),
        )

    def _view(self, pod: Mapping[str, Any], now: Moment) -> InstanceView:
        instance_id, status, usd = str(pod["id"]), str(pod["status"]), decimal(pod["cost"])
        power = POWER.get(status, Power.UNKNOWN)
        if power is Power.STOPPED and usd > 0:
            power = Power.OFF_BILLING
        gpu = pod.get("gpu") or {}
        count, name = _cards(pod), str(gpu.get("id") or "")
        mount = (pod.get("mounts") or {}).get("persistent") or {}
        disks = (int(pod["disk"]), int(mount.get("size") or 0))
        tariff = self._known.tariff(
            instance_id,
            self._tariff(usd, disks) if usd > 0 else None,
            lambda: self._list_price(name, max(count, 1), disks),
        )
        lost = power is Power.RUNNING and count == 0
        return InstanceView(
            id=instance_id,
            tag=str(pod["name"]),
            gpu=name or None,
            read=PowerRead(power=power, begun=now),
            tariff=tariff,
            ssh=_ssh(pod) if power is Power.RUNNING else None,
            created_ms=ms_of_rfc3339(pod.get("createdAt")),
            gpu_count=count,
            status=status,
            unfit="it came up without a GPU: its host has none free" if lost else None,
        )

    def _list_price(self, gpu: str, count: int, disks: tuple[int, int]) -> Tariff:
        kind = pick_card(gpu, self._kinds(count), lambda kind: str(kind["id"]), "runpod")
        return self._quote(kind, count, disks).tariff


def _cards(pod: Mapping[str, Any]) -> int:
    """How many cards a pod has; 0 where it has none, or where a running one shows none."""
    gpu, runtime = pod.get("gpu"), pod.get("runtime")
    if not isinstance(gpu, dict):
        return 0
    if isinstance(runtime, dict) and runtime.get("gpus") == []:
        return 0
    return int(gpu.get("count") or 0)


def _judge(status: int, body: Mapping[str, Any], what: str) -> ProviderError | None:
    if status // 100 == 2:
        return None
    detail = body.get("detail")
    if not isinstance(detail, str):
        return Unclear(f"{what}: {status}, and not in the platform's own words")
    errors = "; ".join(str(error) for error in body.get("errors") or ())
    said = f"({status} {detail}{': ' * bool(errors)}{errors})"
    low = f"{detail} {errors}".lower()
    if any(word in low for word in SOLD_OUT):
        return NoCapacity(f"runpod: nothing of that kind is free at the moment {said}")
    if any(word in low for word in ("balance", "credit", "insufficient funds", "payment")):
        return AccountRefused(f"runpod: the account is in arrears: add credit to it {said}")
    if "verif" in low:
        return AccountRefused(f"runpod: the account is not verified: verify it {said}")
    if "data center" in low or "datacenter" in low:
        return Refused(f"runpod: check the job's region, a data center such as US-KS-2 {said}")
    if status in (401, 403):
        return AuthRefused(
            "runpod: the API key is wrong, expired or not allowed this: "
            f"make a new one at console.runpod.io > Settings > API Keys {said}"
        )
    if status == 404:
        return Absent(f"{what}: there is no such thing {said}")
    if status == 409:
        return Busy(f"{what}: it cannot be done in the pod's present state {said}", BUSY_RETRY_S)
    return Refused(f"{what}: refused {said}")


def _disks(request: CreateRequest) -> tuple[int, int]:
    """GB of the container's disk, which a stop erases, and of the volume, which it does not."""
    return request.system_disk_gb or CONTAINER_GB, max(request.data_disk_gb or VOLUME_GB, 10)


def _ssh(pod: Mapping[str, Any]) -> SshDetails | None:
    """How to log in by the direct way: the proxy knows no file transfer."""
    try:
        direct = pod["ssh"]["direct"]
        host, port, user = str(direct["host"]), int(direct["port"]), str(direct["username"])
    except (LookupError, TypeError, ValueError):
        return None
    return SshDetails(host, port, user, (), WORK_DIR)


DECLARATION = Declaration(
    name="runpod",
    title="RunPod",
    credentials=(Credential("token", "API key", "console.runpod.io > Settings > API Keys"),),
    options=(
        *DOLLARS,
        Option("cloud", "SECURE or COMMUNITY", "SECURE"),
        Option("stop_after_hours", "a fixed deadline, set at create: it ends a healthy run too"),
    ),
    open=RunPod,
)
