"""AWS EC2: a true power-off from inside, a timer through EventBridge Scheduler, no price list.

How sure each fact is: (d) documented by the platform, (s) seen by users, (g) guessed by us.
Nothing here was tried against a live account; the tests run against moto's server, which others
wrote, with capacity, slow transitions and refusals put in front of it.

- (d) By the second, 60 seconds at least for each start. Stopped, the disks alone cost:
  `disk_usd_per_gb_month`, 0.08 for gp3 in us-east-1.
- (d) `ClientToken` makes a create call harmless to repeat; ours is the tag, and it is not repeated.
- (d) Powered off from inside, an instance is stopped, as long as its shutdown behaviour says so:
  we ask for "stop". Name the command in `in_guest_stop_command`; we call it proven by nobody.
- (d) A start can fail with InsufficientInstanceCapacity, and the address is another afterwards.
- (d) EventBridge Scheduler can call ec2:StopInstances at a time, to the minute, under a role that
  may: with `scheduler_role_arn` that is the timer, moved and read back like any other.
- (d) Terminated instances are still listed for about an hour: they count as released.
- (g) Prices are copied into `prices_usd_per_hour`: the price list API is a service of its own,
  with its own rights, and knows no account's discounts.
- Bills come a day late and asking costs money: neither balance nor bill is asked for.
- Spot instances are unfit: they may be taken, and most cannot be stopped.

Sources: docs.aws.amazon.com (EC2 API and user guide, EventBridge Scheduler's universal targets).
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from costguard.core.power import Power, PowerRead
from costguard.providers.base import (
    Absent,
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
    Unclear,
)
from costguard.providers.boto import BotoWire
from costguard.providers.declared import (
    DOLLARS,
    Credential,
    Declaration,
    Option,
    dollar_option,
    guest_stop,
    ms_option,
)
from costguard.providers.shared import (
    PriceBook,
    accept,
    has_words,
    here,
    made_view,
    need_image,
    wish,
)
from costguard.providers.units import monthly_micros
from costguard.providers.wire import PAGE_LIMIT, understood

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from costguard.core.moment import Moment
    from costguard.core.tariff import Tariff

TAG = "costguard"
DISK_GB = 100
MINUTE_MS = 60_000
PAGE = 100

# Machines with a card, how many cards, and what each has of memory in GiB (d).
MACHINES = {
    "g4dn.xlarge": ("T4", 1, 16),
    "g5.xlarge": ("A10G", 1, 24),
    "g5.12xlarge": ("A10G", 4, 24),
    "g6.xlarge": ("L4", 1, 24),
    "g6e.xlarge": ("L40S", 1, 48),
    "p4d.24xlarge": ("A100", 8, 40),
    "p5.48xlarge": ("H100", 8, 80),
}
POWER = {
    "pending": Power.STARTING,
    "running": Power.RUNNING,
    "stopping": Power.STOPPING,
    "shutting-down": Power.STOPPING,
    "stopped": Power.STOPPED,
    "terminated": Power.RELEASED,
}


class Aws:
    """One AWS account in one region."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._region = str(settings.get("region", "us-east-1"))
        self._dollar = dollar_option(settings, "aws")
        machines = dict.fromkeys(MACHINES, "")
        self._prices = PriceBook("aws", machines, settings, key="prices_usd_per_hour")
        self._role: str | None = settings.get("scheduler_role_arn")
        self._wire = BotoWire(settings, self._region)
        self._disks: dict[str, int] = {}  # GB of what this process rented
        self.facts = ProviderFacts(
            name="aws",
            poll_interval_ms=ms_option(settings, "poll_interval_s", 15_000),
            cache_age_ms=15_000,  # (d) eventually consistent
            stop_latency_ms=ms_option(settings, "stop_latency_s", 180_000),
            timer_min_lead_ms=None if self._role is None else 2 * MINUTE_MS,
            timer_lateness_ms=0 if self._role is None else MINUTE_MS,
            arms_timer_at_create=False,
            creates_once=True,  # (d) by the ClientToken
            timer_step_ms=MINUTE_MS,
            in_guest_stop=guest_stop(settings),
            in_guest_stop_proven=False,
            in_guest_stop_given="in_guest_stop_command" in settings,
            tells_balance=False,
            tells_bill=False,
            tells_stock=False,
            tells_prices=False,
            currency="USD",
            yuan_per_unit_micros=self._dollar.yuan_micros,
            console_url=f"https://{self._region}.console.aws.amazon.com/ec2/home#Instances:",
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The price of a machine, as the config says."""
        return self.price(wish(gpu))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """Every instance whose tag begins with `tag_prefix`, all pages."""
        filters = [{"Name": f"tag:{TAG}", "Values": [f"{tag_prefix}*"]}]
        found = {}
        for item in self._instances("list", Filters=filters, MaxResults=PAGE):
            with understood("aws list"):
                view = self._view(item, now)
            if view.tag.startswith(tag_prefix) and view.read.power is not Power.RELEASED:
                found[view.id] = view
        return tuple(found.values())

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance."""
        for item in self._instances("read", InstanceIds=[instance_id]):
            with understood(f"aws {instance_id}"):
                if item["InstanceId"] == instance_id:
                    return self._view(item, now)
        raise Unclear(f"aws {instance_id}: the answer does not tell of it")

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one with our key in it, under a token that makes a second call harmless."""
        image = need_image(request, "aws")
        here(request, (self._region,), "aws")
        quote = self.price(request)
        accept(request, quote, "aws")
        key = json.dumps(request.ssh_public_key.strip())
        tags = [{"Key": TAG, "Value": request.tag}, {"Key": "Name", "Value": request.name}]
        options: dict[str, Any] = {
            "ImageId": image,
            "InstanceType": quote.gpu,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": request.tag,
            "InstanceInitiatedShutdownBehavior": "stop",
            "UserData": f"#cloud-config\nssh_authorized_keys: [{key}]\n",
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")
            ],
            "BlockDeviceMappings": [
                {
                    "DeviceName": str(self._settings.get("root_device", "/dev/sda1")),
                    "Ebs": {
                        "VolumeSize": _disk_gb(request),
                        "VolumeType": "gp3",
                        "DeleteOnTermination": True,
                    },
                }
            ],
        }
        if self._settings.get("security_group_id"):
            options["SecurityGroupIds"] = [str(self._settings["security_group_id"])]
        if self._settings.get("subnet_id"):
            options["SubnetId"] = str(self._settings["subnet_id"])
        answer = self._call("ec2", "run_instances", "create", **options)
        with understood("aws create"):
            item = answer["Instances"][0]
            made = str(item["InstanceId"])
        self._disks[made] = _disk_gb(request)
        try:
            with understood("aws create"):
                return self._view(item, now)
        except ProviderError:
            return made_view(made, request, quote, now)  # rented: that must not get lost

    def start(self, instance_id: str) -> None:
        """Ask for power on."""
        ids = {"InstanceIds": [instance_id]}
        answer = self._wire.call("ec2", "start_instances", "aws start", ids)
        _accepted(answer, "StartingInstances", instance_id)

    def stop(self, instance_id: str) -> None:
        """Ask for power off."""
        ids = {"InstanceIds": [instance_id]}
        answer = self._wire.call("ec2", "stop_instances", "aws stop", ids, urgent=True)
        _accepted(answer, "StoppingInstances", instance_id)

    def release(self, instance_id: str) -> None:
        """Give it back with its disks."""
        ids = {"InstanceIds": [instance_id]}
        answer = self._wire.call("ec2", "terminate_instances", "aws release", ids)
        _accepted(answer, "TerminatingInstances", instance_id)

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Have EventBridge stop it, at the last whole minute before, and read that back."""
        if self._role is None:
            return None
        at = datetime.fromtimestamp(at_ms // MINUTE_MS * 60, tz=timezone.utc)
        schedule = {
            "Name": f"{TAG}-{instance_id}",
            "ScheduleExpression": f"at({at:%Y-%m-%dT%H:%M:%S})",
            "ScheduleExpressionTimezone": "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {
                "Arn": "arn:aws:scheduler:::aws-sdk:ec2:stopInstances",
                "RoleArn": self._role,
                "Input": json.dumps({"InstanceIds": [instance_id]}),
            },
        }
        try:
            self._call("scheduler", "update_schedule", "timer", **schedule)
        except Absent:
            self._call("scheduler", "create_schedule", "timer", **schedule)
        back = self._call("scheduler", "get_schedule", "timer", Name=schedule["Name"])
        with understood("aws timer"):
            text = str(back["ScheduleExpression"]).removeprefix("at(").removesuffix(")")
            when = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
            return int(when.timestamp()) * 1_000

    def bill_micros(self, instance_id: str) -> int | None:
        """Not asked for: it comes a day late, and asking costs money."""
        del instance_id
        return None

    def balance_micros(self) -> int | None:
        """There is none: paid afterwards."""
        return None

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """From the config's price list, disk counted; AWS tells of stock only by renting."""
        name, usd_micros = self._prices.price(_machine(request))
        return Quote(name, self._tariff(usd_micros, _disk_gb(request)), in_stock=True)

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """The machines with so many cards that the config has a price of."""
        found = []
        for name, usd_micros in self._prices.prices.items():
            gpu, count, memory = MACHINES.get(name, ("", gpu_count, None))
            if count == gpu_count:
                tariff = self._tariff(usd_micros, DISK_GB)
                found.append(Offer(name, count, tariff, None, memory, self._region, gpu))
        return tuple(found)

    def images(self, words: str) -> Sequence[ImageInfo]:
        """Amazon's own and the account's, by words."""
        answer = self._call("ec2", "describe_images", "images", Owners=["self", "amazon"])
        with understood("aws images"):
            found = [
                ImageInfo(
                    id=str(item["ImageId"]),
                    name=str(item.get("Name") or ""),
                    kind="AMI",
                    says=str(item.get("Description") or ""),
                )
                for item in answer["Images"]
            ]
        return tuple(image for image in found if has_words(image, words))

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """None: see `bill_micros`."""
        del instance_id, since_ms, until_ms
        return ()

    def platform_ms(self) -> int | None:
        """The platform's clock, counted on since its last answer."""
        return self._wire.dates.now_ms()

    # ------------------------------------------------------------------ the calls

    def _call(self, service: str, name: str, what: str, **options: Any) -> Any:
        return self._wire.call(service, name, f"aws {what}", options)

    def _instances(self, what: str, **options: Any) -> Iterator[Mapping[str, Any]]:
        token: str | None = None
        for _ in range(PAGE_LIMIT):
            more = {} if token is None else {"NextToken": token}
            answer = self._call("ec2", "describe_instances", what, **options, **more)
            with understood(f"aws {what}"):
                items = [item for group in answer["Reservations"] for item in group["Instances"]]
                if answer["ResponseMetadata"].get("RequestId") is None:
                    raise ValueError("no answer of EC2's")
                token = answer.get("NextToken")
            yield from items
            if not token:
                return

    def _tariff(self, usd_micros: int, disk_gb: int) -> Tariff:
        """A machine, and the disk that costs in every state."""
        price = str(self._settings.get("disk_usd_per_gb_month", "0.08"))
        return self._dollar.tariff(
            usd_micros + monthly_micros(price, disk_gb),
            quantum_s=1,
            minimum_s=60,
            paused_micros_per_hour=monthly_micros(price, disk_gb, self._dollar.yuan_micros),
        )

    def _view(self, item: Mapping[str, Any], now: Moment) -> InstanceView:
        status, kind = str(item["State"]["Name"]), str(item["InstanceType"])
        tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags") or ()}
        power = POWER.get(status, Power.UNKNOWN)
        spot = item.get("InstanceLifecycle") == "spot"
        _, usd_micros = self._prices.price(kind)
        address, launched = item.get("PublicIpAddress"), item.get("LaunchTime")
        user = str(self._settings.get("ssh_user", "ubuntu"))
        ssh = SshDetails(str(address), 22, user, (), f"/home/{user}")
        instance_id = str(item["InstanceId"])
        disk_gb = self._disks.get(instance_id) or int(self._settings.get("disk_gb") or DISK_GB)
        return InstanceView(
            id=instance_id,
            tag=str(tags.get(TAG, "")),
            gpu=kind,
            read=PowerRead(power=power, begun=now),
            tariff=self._tariff(usd_micros, disk_gb),
            ssh=ssh if power is Power.RUNNING and address else None,
            created_ms=None if launched is None else int(launched.timestamp()) * 1_000,
            gpu_count=MACHINES.get(kind, ("", 1, 0))[1],
            charge_type="spot" if spot else "on-demand",
            status=status,
            unfit="it is a spot instance: it may be taken away, and is not stopped"
            if spot
            else None,
        )


def _accepted(answer: Mapping[str, Any], key: str, instance_id: str) -> None:
    """Unclear unless the answer names the instance: a page of somebody else's names none."""
    if instance_id not in {item.get("InstanceId") for item in answer.get(key) or ()}:
        raise Unclear(f"aws {instance_id}: the answer does not tell of it")


def _machine(request: CreateRequest) -> str | None:
    """The machine that is asked for by its own name, or by a card's and how many."""
    if request.gpu in MACHINES:
        count = MACHINES[request.gpu][1]
        if request.gpu_count not in (1, count):
            raise Refused(f"aws: {request.gpu} has {count} cards, not {request.gpu_count}")
        return request.gpu
    for name, (gpu, count, _) in MACHINES.items():
        if gpu == request.gpu and count == request.gpu_count:
            return name
    return request.gpu


def _disk_gb(request: CreateRequest) -> int:
    """One disk holds everything."""
    return (request.system_disk_gb or 0) + (request.data_disk_gb or 0) or DISK_GB


DECLARATION = Declaration(
    name="aws",
    title="AWS EC2",
    credentials=(
        Credential("access_key_id", "access key ID", "IAM > Users > Security credentials"),
        Credential("secret_access_key", "secret access key", "the same place; shown once"),
    ),
    options=(
        *DOLLARS,
        Option("region", "the region", "us-east-1"),
        Option("prices_usd_per_hour", 'a machine\'s price: { "g5.xlarge" = 1.006 }', required=True),
        Option("disk_usd_per_gb_month", "what a GB of disk costs a month", "0.08"),
        Option("disk_gb", "the disk of adopted instances", "100"),
        Option("scheduler_role_arn", "a role that may stop instances: arms the timer"),
        Option("security_group_id", "one that lets SSH in"),
        Option("subnet_id", "where to start instances"),
        Option("root_device", "the image's root device", "/dev/sda1"),
        Option("ssh_user", "the image's user", "ubuntu"),
    ),
    open=Aws,
)
