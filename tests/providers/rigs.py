"""One rig for each platform: the adapter, the fake behind it, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from costguard.core.moment import Moment
from costguard.providers.autodl import AutoDl
from costguard.providers.aws import Aws
from costguard.providers.base import CreateRequest
from costguard.providers.chenyu import Chenyu
from costguard.providers.compshare import Compshare
from costguard.providers.local import LocalProvider
from costguard.providers.runpod import RunPod
from costguard.providers.vast import Vast
from costguard.providers.xiangongyun import Xiangongyun
from tests.providers.fakes.autodl import FakeAutoDl
from tests.providers.fakes.aws import FakeAws
from tests.providers.fakes.chenyu import FakeChenyu
from tests.providers.fakes.compshare import FakeCompshare
from tests.providers.fakes.local import FakeLocal
from tests.providers.fakes.platform import NOW_S
from tests.providers.fakes.runpod import FakeRunPod
from tests.providers.fakes.vast import FakeVast
from tests.providers.fakes.xiangongyun import FakeXiangongyun

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.providers.base import Account
    from tests.providers.fakes.platform import FakePlatform

NOW = Moment(NOW_S * 1_000, 5_000, "boot")
TAG = "costguard-0123456789ab-1-1"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9uZXBsYW50ZWRrZXlmb3J0ZXN0c29ubHkx costguard"
READ_TIMEOUT_S = "20"  # a loaded machine is no fault; `hasty` is for the tests of time-outs


class HandClock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.s

    def forward(self, s: float) -> None:
        """Let time pass."""
        self.s += s


CLOCK = HandClock()


@dataclass
class Rig:
    """An adapter and the platform that it speaks to."""

    name: str
    cloud: FakePlatform
    account: Account
    price_micros: int = 15_500_000  # of one card for one hour, running, disks included
    quantum_s: int = 1
    minimum_s: int = 0
    minimum_micros: int = 0
    paused_micros: int = 0
    disk_micros: int = 0  # what of the price is for disks, which two cards do not double
    image: str = "image-1"
    gpu: str = "RTX 3090"
    disk_gb: int | None = None
    tells_capacity_by_state: bool = False  # a start is accepted, and then waits
    tells_running_price: bool = True  # what a running instance costs now
    machines_are_fixed: bool = False  # so many cards are a machine of their own
    timer_step_ms: int = 1_000  # to what a timer is kept
    many: int = 230  # more instances than a few pages hold
    wants_lead: bool = True  # whether the platform itself refuses a timer that is too near
    limits_by_itself: bool = False  # whether the platform itself refuses what is too dear
    word: str = "weird"  # a power state that the adapter has never heard of
    extra: dict[str, Any] = field(default_factory=dict)  # how the fake was asked for a machine
    untold: tuple[str, ...] = ()  # troubles that the platform has no words for
    far_away: dict[str, Any] = field(default_factory=lambda: {"region": "nowhere"})
    clock: HandClock = field(default_factory=lambda: CLOCK)

    def request(self, **changes: Any) -> CreateRequest:
        """What the daemon would ask for."""
        usual: dict[str, Any] = {
            "name": "costguard-job",
            "tag": TAG,
            "gpu": self.gpu,
            "gpu_count": 1,
            "image": self.image,
            "region": None,
            "ssh_public_key": PUBLIC_KEY,
            "stop_at_ms": NOW.utc_ms + 900_000,
            "max_price_micros_per_hour": None,
            "system_disk_gb": self.disk_gb,
        }
        return CreateRequest(**{**usual, **changes})


def common(cloud: FakePlatform) -> dict[str, Any]:
    """What every adapter over HTTP is set up with."""
    return {
        "base_url": cloud.url,
        "token": SecretStr(cloud.secrets[0]),
        "read_timeout_s": READ_TIMEOUT_S,
        "clock": CLOCK,
    }


def compshare(**settings: Any) -> Rig:
    """优云智算."""
    cloud = FakeCompshare()
    public, private = cloud.secrets
    account = Compshare(
        {
            **common(cloud),
            "public_key": SecretStr(public),
            "private_key": SecretStr(private),
            **settings,
        }
    )
    return Rig(
        "compshare",
        cloud,
        account,
        price_micros=15_520_000,
        quantum_s=3_600,
        paused_micros=20_000,
        disk_micros=20_000,
        image="compshareImage-1",
    )


def autodl(**settings: Any) -> Rig:
    """AutoDL 容器实例 Pro."""
    cloud = FakeAutoDl()
    prices = {"RTX 3090 48G": "15.5", "h800": 9}
    account = AutoDl({**common(cloud), "prices_yuan_per_hour": prices, **settings})
    return Rig("autodl", cloud, account, gpu="RTX 3090 48G", minimum_micros=10_000)


def chenyu(**settings: Any) -> Rig:
    """晨羽智云; its names are taken here, unlike on the platform, so that lists can be tested."""
    cloud = FakeChenyu()
    cloud.foreign_titles = False
    account = Chenyu({**common(cloud), "by_use_charging_type": 0, **settings})
    return Rig("chenyu", cloud, account, quantum_s=3_600)


def xiangongyun(**settings: Any) -> Rig:
    """仙宫云."""
    cloud = FakeXiangongyun()
    prices = {"RTX 4090 48G": "15.5"}
    account = Xiangongyun({**common(cloud), "prices_yuan_per_hour": prices, **settings})
    return Rig(
        "xiangongyun",
        cloud,
        account,
        gpu="RTX 4090 48G",
        quantum_s=3_600,
        paused_micros=1_500,
        disk_gb=50,
    )


def runpod(**settings: Any) -> Rig:
    """RunPod: 2 dollars a card and hour, 80 GB of disks, at 7.3 yuan a dollar."""
    cloud = FakeRunPod()
    account = RunPod({**common(cloud), "yuan_per_usd": "7.3", **settings})
    return Rig(
        "runpod",
        cloud,
        account,
        price_micros=14_680_001,  # (2 + 0.10 * 80 / 730) * 7.3, in whole millionths of a dollar
        paused_micros=100_000,  # 0.20 * 50 / 730 * 7.3
        disk_micros=80_001,
        image="runpod/pytorch",
    )


def vast(**settings: Any) -> Rig:
    """Vast.ai: 2 dollars a machine and hour, disk in it, at 7.3 yuan a dollar."""
    cloud = FakeVast()
    account = Vast({**common(cloud), "yuan_per_usd": "7.3", **settings})
    return Rig(
        "vast",
        cloud,
        account,
        price_micros=14_600_000,
        paused_micros=73_000,
        image="pytorch/pytorch",
        tells_capacity_by_state=True,
    )


def aws(**settings: Any) -> Rig:
    """AWS EC2: 2 dollars a machine and hour, 100 GB of disk, at 7.3 yuan a dollar."""
    cloud = FakeAws()
    key_id, key = cloud.secrets
    account = Aws(
        {
            "base_url": cloud.url,
            "read_timeout_s": READ_TIMEOUT_S,
            "clock": CLOCK,
            "access_key_id": SecretStr(key_id),
            "secret_access_key": SecretStr(key),
            "yuan_per_usd": "7.3",
            "prices_usd_per_hour": {"g5.xlarge": 2},
            "scheduler_role_arn": "arn:aws:iam::123456789012:role/stop",
            **settings,
        }
    )
    return Rig(
        "aws",
        cloud,
        account,
        price_micros=14_680_001,  # (2 + 0.08 * 100 / 730) * 7.3, in whole millionths of a dollar
        minimum_s=60,
        paused_micros=80_000,
        image=cloud.image,
        gpu="g5.xlarge",
        tells_running_price=False,
        machines_are_fixed=True,
        timer_step_ms=60_000,
        wants_lead=False,
        many=105,
    )


def local() -> Rig:
    """The embedded default."""
    cloud = FakeLocal()
    account = LocalProvider(cloud.url, cloud.secrets[0], read_timeout_s=float(READ_TIMEOUT_S))
    return Rig(
        "local",
        cloud,
        account,
        quantum_s=60,
        paused_micros=100_000,
        untold=("unverified", "arrears", "region"),
        limits_by_itself=True,
    )


RIGS: dict[str, Callable[..., Rig]] = {
    "local": local,
    "compshare": compshare,
    "autodl": autodl,
    "chenyu": chenyu,
    "xiangongyun": xiangongyun,
    "runpod": runpod,
    "vast": vast,
    "aws": aws,
}
# The routes that each adapter is known to take, for the tests that break them one by one.
ROUTES: dict[str, tuple[str, ...]] = {
    "local": FakeLocal.routes,
    "compshare": FakeCompshare.routes,
    "autodl": FakeAutoDl.routes,
    "chenyu": FakeChenyu.routes,
    "xiangongyun": FakeXiangongyun.routes,
    "runpod": FakeRunPod.routes,
    "vast": FakeVast.routes,
    "aws": FakeAws.routes,
}
