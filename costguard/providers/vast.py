"""Vast.ai: a market of single hosts, where a resume may wait for ever and a disk always costs.

How sure each fact is: (d) documented by the platform, (s) seen by users, (g) guessed by us.
Nothing here was tried against a live account; requests and answers are checked against the
published OpenAPI document.

- (d) US dollars. GPU by the second while it is active, the disk by the second in every state,
  often dearer when stopped (how much is not said: the running price is taken), traffic by the
  byte on top: a download of 15 GB may cost some cents that no tariff here holds.
- (d) A stopped instance stays on its host; told to start, it waits (SCHEDULING) while the card is
  rented to somebody else, perhaps for ever. It shows as off, and meant to run: said in
  `waits_for_capacity`. (s) The start call itself may say "resources_unavailable" and queue the
  change all the same: it is taken back by a stop, so that it cannot come true at night.
- (d) `frozen` is off, and the GPU is charged. `offline` (the host is away) is not charged, and may
  come back: unknown here. An `exited` container that is meant to run has not stopped.
- (d) 429 without `Retry-After`: each call is held back twice as long as before.
- (d) Contracts end (`end_date`): stopped then, and perhaps deleted 48 hours later.
- (d) At a balance of 0 instances are stopped, and without a card on file deleted.
- (d) No timer. From inside, CONTAINER_API_KEY can stop that instance alone; not proven by us.
- (d) Our key is attached to the instance, and (g) also written by its start script, since an
  instance that nobody can log in to costs as much as another.
- (g) From stop to the meter's end: 2 minutes.

Sources: docs.vast.ai (api-reference, guides/instances, guides/reference/faq), the vast-ai/docs
repository.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import TYPE_CHECKING, Any

from costguard.core.power import Power, PowerRead
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
    DOLLARS,
    Credential,
    Declaration,
    Option,
    dollar_option,
    guest_stop,
    ms_option,
    secret_of,
)
from costguard.providers.shared import Known, accept, card, made_view, need_image, wish
from costguard.providers.units import micros, ms_of_s, price_micros
from costguard.providers.wire import PAGE_LIMIT, Wire, understood

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from costguard.core.moment import Moment
    from costguard.core.tariff import Tariff

BASE_URL = "https://console.vast.ai"
WORK_DIR = "/workspace"
DISK_GB = 60
PAGE = 25  # the most that a list gives at once (d)
MARKET = 200
FOREVER_S = 4_102_444_800
OFF = ("exited", "stopped")
DELETED_AFTER_END_MS = 48 * 3_600_000
SOLD_OUT = ("no_such_ask", "resources_unavailable", "no longer available", "currently unavailable")
ARREARS = ("missing_billing", "insufficient_credit", "credit", "billing")


class Vast:
    """One Vast.ai account."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        token = secret_of(settings, "token")
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._wire = Wire.of(settings, BASE_URL, (token,), headers)
        self._dollar = dollar_option(settings, "vast")
        self._rate = self._dollar.yuan_micros
        self._known = Known()
        self._reliability = str(settings.get("min_reliability", "0.98"))
        self.facts = ProviderFacts(
            name="vast",
            poll_interval_ms=ms_option(settings, "poll_interval_s", 15_000),
            cache_age_ms=15_000,
            stop_latency_ms=ms_option(settings, "stop_latency_s", 120_000),
            timer_min_lead_ms=None,
            timer_lateness_ms=0,
            arms_timer_at_create=False,
            in_guest_stop=guest_stop(settings)
            or ("sh", "-c", "vastai stop instance $CONTAINER_ID --api-key $CONTAINER_API_KEY"),
            in_guest_stop_proven=False,
            in_guest_stop_given="in_guest_stop_command" in settings,
            currency="USD",
            yuan_per_unit_micros=self._rate,
            console_url="https://cloud.vast.ai/instances/",
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The cheapest machine with one such card."""
        return self.price(wish(gpu))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """Every instance whose label begins with `tag_prefix`, all pages."""
        found = {}
        for item in self._pages("/api/v1/instances/", "instances", {"limit": PAGE}):
            with understood("vast list"):
                if str(item.get("label") or "").startswith(tag_prefix):
                    view = self._view(item, now)
                    found[view.id] = view
        return tuple(found.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance."""
        body = self._call("GET", f"/api/v0/instances/{instance_id}/")
        with understood(f"vast {instance_id}"):
            item = body["instances"]
            if not item:
                raise Absent(f"vast: there is no instance {instance_id}")
            if str(item["id"]) != instance_id:
                raise ValueError("another instance than was asked for")
            return self._view(item, now)

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent the cheapest machine that fits; taken meanwhile by another, it is no capacity."""
        image = need_image(request, "vast")
        quote, ask = self._cheapest(request)
        accept(request, quote, "vast")
        key = shlex.quote(request.ssh_public_key.strip())
        body = {
            "image": image,
            "label": request.tag,
            "disk": _disk_gb(request),
            "runtype": "ssh_direct",
            "target_state": "running",
            "cancel_unavail": True,
            "onstart": f"mkdir -p ~/.ssh && echo {key} >> ~/.ssh/authorized_keys",
        }
        answer = self._call("PUT", f"/api/v0/asks/{ask}/", body=body)
        with understood("vast create"):
            made = str(int(answer["new_contract"]))
        with contextlib.suppress(ProviderError):  # the start script has it too
            key_body = {"ssh_key": request.ssh_public_key.strip()}
            self._call("POST", f"/api/v0/instances/{made}/ssh/", body=key_body)
        try:
            return self.read(made, now)
        except ProviderError:
            return made_view(made, request, quote, now)  # rented: that must not get lost

    def start(self, instance_id: str) -> None:
        """Ask for power on; a wish that is only queued is taken back."""
        try:
            self._state(instance_id, "running")
        except NoCapacity:
            self._state(instance_id, "stopped", urgent=True)
            raise

    def stop(self, instance_id: str) -> None:
        """Ask for power off."""
        self._state(instance_id, "stopped", urgent=True)

    def release(self, instance_id: str) -> None:
        """Give it back with its disk."""
        self._call("DELETE", f"/api/v0/instances/{instance_id}/")

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Nothing: the platform has no timer."""
        del instance_id, at_ms
        return None

    def bill_micros(self, instance_id: str) -> int | None:
        """All charges of this instance so far, disk and traffic too."""
        return sum(line.micros for line in self._charges(instance_id, 0, FOREVER_S))

    def balance_micros(self) -> int | None:
        """What the account has left, at the config's rate."""
        body = self._call("GET", "/api/v0/users/current/")
        with understood("vast balance"):
            return micros(body["balance"], self._rate)

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """The cheapest machine that fits, disk counted."""
        return self._cheapest(request)[0]

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """The cheapest machine for each card on the market."""
        found: dict[str, Offer] = {}
        for item in self._market(wish(None, gpu_count)):
            with understood("vast offers"):
                name = str(item["gpu_name"])
                offer = Offer(
                    gpu=name,
                    gpu_count=gpu_count,
                    tariff=self._tariff(item),
                    in_stock=True,
                    memory_gib=int(item.get("gpu_ram") or 0) // 1_024 or None,
                    region=str(item.get("geolocation") or "") or None,
                    note=f"machine {item['machine_id']}, traffic costs extra",
                )
            found.setdefault(name, offer)
        return tuple(found.values())

    def images(self, words: str) -> Sequence[ImageInfo]:
        """Refused: any Docker image can be named."""
        del words
        raise Refused(
            "vast: any Docker image will do, the platform adds an SSH server "
            "(pytorch/pytorch, vastai/pytorch); name it in the job"
        )

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """The charges of one instance, a line for each kind."""
        return self._charges(instance_id, since_ms // 1_000, until_ms // 1_000)

    def platform_ms(self) -> int | None:
        """The platform's clock, counted on since its last answer."""
        return self._wire.dates.now_ms()

    # ------------------------------------------------------------------ the calls

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        what = f"vast {path.removeprefix('/api/').rstrip('/')}"
        answer = self._wire.call(method, path, what=what, **options)
        error = _judge(answer.status, answer.body, what)
        if error is not None:
            raise self._wire.clean(error)
        return answer.body

    def _state(self, instance_id: str, state: str, *, urgent: bool = False) -> None:
        path = f"/api/v0/instances/{instance_id}/"
        answer = self._call("PUT", path, body={"state": state}, urgent=urgent)
        if answer.get("success") is not True:
            raise Unclear(f"vast {state} {instance_id}: the answer does not say that it succeeded")

    def _pages(self, path: str, key: str, query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        token: str | None = None
        for _ in range(PAGE_LIMIT):
            more = {} if token is None else {"after_token": token}
            body = self._call("GET", path, query={**query, **more})
            with understood(f"vast {path}"):
                items, token = list(body[key]), body.get("next_token")
            yield from items
            if not token or not items:
                return

    def _market(self, request: CreateRequest) -> list[Mapping[str, Any]]:
        """What is offered now, the cheapest first."""
        body: dict[str, Any] = {
            "type": "ondemand",
            "limit": MARKET,
            "num_gpus": {"in": [request.gpu_count]},
            "verified": {"eq": True},
            "rentable": {"eq": True},
            "rented": {"eq": False},
            "reliability": {"gte": float(self._reliability)},
            "allocated_storage": _disk_gb(request),
            "order": [["dph_total", "asc"], ["id", "asc"]],
        }
        if request.gpu is not None:
            # The page writes underscores where answers have spaces.
            names = {request.gpu, request.gpu.replace("_", " "), request.gpu.replace(" ", "_")}
            body["gpu_name"] = {"in": sorted(names)}
        if request.region is not None:
            body["geolocation"] = {"in": [request.region]}
        answer = self._call("POST", "/api/v0/bundles/", body=body)
        with understood("vast market"):
            return sorted(answer["offers"], key=lambda item: price_micros(item["dph_total"]))

    def _cheapest(self, request: CreateRequest) -> tuple[Quote, int]:
        if request.gpu is None:
            raise Refused("vast: no GPU is named, such as RTX 3090")
        fitting = self._market(request)
        if not fitting:
            raise self._why_not(request)
        with understood("vast market"):
            best = fitting[0]
            quote = Quote(str(best["gpu_name"]), self._tariff(best), in_stock=True)
            return quote, int(best["id"])

    def _why_not(self, request: CreateRequest) -> Refused:
        """NoCapacity where the market knows the card or the place; else what it does know."""
        there = self._market(wish(None, request.gpu_count))
        with understood("vast market"):
            names = sorted({str(item["gpu_name"]) for item in there})
            places = sorted({str(item.get("geolocation") or "?")[-2:] for item in there})
        if card(request.gpu or "") not in {card(name) for name in names}:
            return Refused(
                f"vast: no GPU type {request.gpu!r} here; there are: {', '.join(names) or 'none'}"
            )
        if request.region is not None and request.region not in places:
            return Refused(
                f"vast: nothing in region {request.region!r}: it takes countries such as "
                f"{', '.join(places)}"
            )
        return NoCapacity(f"vast: no machine with {request.gpu_count} x {request.gpu} is free")

    def _charges(self, instance_id: str, since_s: int, until_s: int) -> tuple[BillLine, ...]:
        wanted = {"day": {"gte": since_s, "lte": until_s}, "type": {"in": ["instance"]}}
        query = {"select_filters": json.dumps(wanted), "limit": 100}
        found = []
        for item in self._pages("/api/v0/charges/", "results", query):
            with understood("vast charges"):
                if item["source"] != f"instance-{instance_id}":
                    continue
                parts = item.get("items") or [item]
                found += [
                    BillLine(
                        instance_id=instance_id,
                        begun_ms=ms_of_s(part["start"]) or 0,
                        ended_ms=ms_of_s(part["end"]),
                        micros=micros(part["amount"], self._rate),
                        what=str(part["type"]),
                    )
                    for part in parts
                ]
        return tuple(found)

    def _tariff(self, item: Mapping[str, Any]) -> Tariff:
        return self._dollar.tariff(
            price_micros(item["dph_total"]),
            quantum_s=1,
            paused_micros_per_hour=price_micros(item.get("storage_total_cost") or 0, self._rate),
        )

    def _view(self, item: Mapping[str, Any], now: Moment) -> InstanceView:
        power, status = _power(item)
        end_ms = ms_of_s(item.get("end_date"))
        told, gpu = self._tariff(item), str(item.get("gpu_name") or "")
        count = int(item.get("num_gpus") or 1)
        tariff = self._known.tariff(
            str(item["id"]),
            told if told.price_micros_per_hour else None,
            lambda: self.price(wish(gpu, count)).tariff,
        )
        return InstanceView(
            id=str(item["id"]),
            tag=str(item.get("label") or ""),
            gpu=gpu or None,
            read=PowerRead(power=power, begun=now),
            tariff=tariff,
            ssh=_ssh(item) if power is Power.RUNNING else None,
            created_ms=ms_of_s(item.get("start_date")),
            gpu_count=count,
            status=status,
            release_at_ms=None if end_ms is None else end_ms + DELETED_AFTER_END_MS,
            waits_for_capacity=status == "scheduling",
        )


def _power(item: Mapping[str, Any]) -> tuple[Power, str]:
    """The power state, of what is and what is meant to be; neither alone says it."""
    actual, meant = item["actual_status"], item["intended_status"]
    if actual == "frozen" or meant == "frozen":
        return Power.OFF_BILLING, "frozen"
    if actual in OFF:
        if meant == "stopped" and item.get("cur_state") != "running":
            return Power.STOPPED, str(actual)
        return (Power.STARTING, "scheduling") if meant == "running" else (Power.UNKNOWN, "?")
    if meant == "stopped":
        return (Power.STOPPING if actual == "running" else Power.UNKNOWN), str(actual)
    if actual == "running":
        return Power.RUNNING, "running"
    if actual in (None, "loading", "created", "rebooting"):
        return Power.STARTING, str(actual or "provisioning")
    return Power.UNKNOWN, str(actual)


def _judge(status: int, body: Mapping[str, Any], what: str) -> ProviderError | None:
    failed = body.get("success") is False or "error" in body
    if status // 100 == 2 and not failed:
        return None
    kind, message = str(body.get("error") or ""), str(body.get("msg") or "")
    if not kind and not message:
        return Unclear(f"{what}: {status}, and not in the platform's own words")
    said, low = f"({status} {kind} {message})", f"{kind} {message}".lower()
    if any(word in low for word in SOLD_OUT):
        return NoCapacity(f"vast: it is not free at the moment {said}")
    if kind == "no_such_instance" or (status == 404 and "ask" not in kind):
        return Absent(f"{what}: there is no such thing {said}")
    if "verif" in low:
        return AccountRefused(f"vast: the account is not verified: verify its e-mail {said}")
    if kind == "auth_error" or status == 401:
        return AuthRefused(
            "vast: the API key is wrong, expired or not allowed this: "
            f"make a new one at cloud.vast.ai > Keys {said}"
        )
    if any(word in low for word in ARREARS):
        return AccountRefused(f"vast: the account is in arrears: add credit to it {said}")
    if "geolocation" in low:
        return Refused(f"vast: check the job's region, a country such as SE {said}")
    return Refused(f"{what}: refused {said}")


def _disk_gb(request: CreateRequest) -> int:
    """One disk holds everything here, and its size can never be changed."""
    return (request.system_disk_gb or 0) + (request.data_disk_gb or 0) or DISK_GB


def _ssh(item: Mapping[str, Any]) -> SshDetails | None:
    """How to log in; None where it is not told, which must not hide the power state."""
    try:
        host, port = str(item["ssh_host"]), int(item["ssh_port"])
    except (LookupError, TypeError, ValueError):
        return None
    return SshDetails(host, port, "root", (), WORK_DIR)


DECLARATION = Declaration(
    name="vast",
    title="Vast.ai",
    credentials=(Credential("token", "API key", "cloud.vast.ai > Keys > API Keys"),),
    options=(
        *DOLLARS,
        Option("min_reliability", "the least reliable host to rent of", "0.98"),
    ),
    open=Vast,
)
