"""The daemon over real adapters: the platform in memory, reached by the wire formats of two."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.daemon.commands import Commands
from costguard.daemon.loop import Loop
from costguard.providers.autodl import AutoDl
from costguard.providers.base import Account, CreateRequest
from costguard.providers.compshare import Compshare
from tests.daemon.world import YUAN, InlineExecutor, World, spec_of
from tests.providers.fakes.autodl import FakeAutoDl
from tests.providers.fakes.compshare import FakeCompshare
from tests.providers.fakes.platform import Call, Machine, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.daemon.fake_cloud import FakeCloud

LEASE_MS = 1_800_000
POLL_S = 15


def mirrored(cloud: FakeCloud, gpu: str) -> dict[str, Machine]:
    """The machines of the world's platform, as our fakes keep theirs."""
    cloud.settle()
    return {
        one.id: Machine(
            one.id,
            one.tag,
            gpu,
            power="gone" if one.released_ms else one.power,
            boots=22_000 + 100 * int(one.id[2:]) + one.boots - 30_000,
            created_s=one.created_ms // 1_000,
            timer_s=None if one.timer_ms is None else one.timer_ms // 1_000,
        )
        for one in cloud.machines
    }


def asked(tag: str) -> CreateRequest:
    """What reaches the world's platform of a create call."""
    return CreateRequest("n", tag, "3090", 1, None, None, "", None, None)


class Bridge(FakeCompshare):
    """Compshare's answers about the machines of the world's own platform."""

    def __init__(self, cloud: FakeCloud) -> None:
        super().__init__()
        self.cloud = cloud

    def answer(self, route: str, call: Call) -> Reply:
        """As the platform is at this instant."""
        self.machines = mirrored(self.cloud, "3090")
        self.now_s = self.cloud.clock.true_ms // 1_000
        self.price = str(self.cloud.price / YUAN)
        return super().answer(route, call)

    def _item(self, machine: Machine) -> dict[str, Any]:
        return {**super()._item(machine), "DiskPrice": 0}

    def _price(self, form: dict[str, str]) -> Any:
        details = super()._price(form)["PriceDetails"]
        return {"PriceDetails": [{**item, "Disks": 0} for item in details]}

    def _create(self, form: dict[str, str]) -> Any:
        assert form["ChargeType"] == "Postpay"
        made = self.cloud.create(asked(form["Name"]), self.cloud.clock.now())
        return {"UHostIds": [made.id]}

    def _start(self, form: dict[str, str]) -> Any:
        self.cloud.start(form["UHostId"])
        return {}

    def _stop(self, form: dict[str, str]) -> Any:
        self.cloud.stop(form["UHostId"])
        return {}

    def _timer(self, form: dict[str, str]) -> Any:
        at_s = int(form["SchedulerStopTime"])
        if at_s < self.now_s + 300:
            return self._no(230, "SchedulerStopTime is too early")
        self.cloud.arm_timer(form["UHostId"], at_s * 1_000)
        return {}


class AutoDlBridge(FakeAutoDl):
    """AutoDL's answers about the machines of the world's own platform."""

    def __init__(self, cloud: FakeCloud) -> None:
        super().__init__()
        self.cloud = cloud

    def answer(self, route: str, call: Call) -> Reply:
        """As the platform is at this instant."""
        self.machines = mirrored(self.cloud, "v-48g-350w")
        self.now_s = self.cloud.clock.true_ms // 1_000
        self.price = str(self.cloud.price / YUAN)
        return super().answer(route, call)

    def _create(self, body: dict[str, Any]) -> Any:
        return self.cloud.create(asked(body["instance_name"]), self.cloud.clock.now()).id

    def _start(self, machine: Machine) -> Any:
        self.cloud.start(machine.id)

    def _stop(self, machine: Machine) -> Any:
        if machine.power != "starting":  # the trap: accepted, and lost
            self.cloud.stop(machine.id)


@pytest.fixture
def plain(make_world: Callable[..., World]) -> World:
    """A world as the others are."""
    return make_world(price=36 * YUAN)


@pytest.fixture
def bridge(plain: World) -> Iterator[Bridge]:
    """The wire to its platform."""
    made = Bridge(plain.cloud)
    yield made
    made.close()


@pytest.fixture
def world(plain: World, bridge: Bridge) -> World:
    """A world whose platform is reached over Compshare's wire."""
    public, private = bridge.secrets
    account = Compshare(
        {
            "base_url": bridge.url,
            "public_key": public,
            "private_key": private,
            "billing": "second",
            "stop_latency_s": 60,
        }
    )
    return reached_by(plain, account)


def reached_by(world: World, account: Account) -> World:
    """The world, its daemon wired to this adapter."""
    world.context = replace(world.context, provider=lambda name: account)
    world.loop = Loop(world.context, InlineExecutor())
    world.commands = Commands(world.context, world.loop.wake)
    return world


@pytest.fixture
def autodl(plain: World) -> Iterator[World]:
    """A world whose platform is reached over AutoDL's wire."""
    bridge = AutoDlBridge(plain.cloud)
    account = AutoDl(
        {
            "base_url": bridge.url,
            "token": bridge.secrets[0],
            "prices_yuan_per_hour": {"RTX 3090 48G": 36},
            "stop_latency_s": 60,
        }
    )
    yield reached_by(plain, account)
    bridge.close()


def job(**changes: Any) -> Any:
    """A job that names an image and lives under leases that the platform's timer can follow."""
    wish = {"image": "compshareImage-1", "gpu": "RTX 3090"}
    return replace(spec_of(yuan=100, wish=wish), lease_ms=LEASE_MS, **changes)


def test_a_job_runs_to_its_end_over_a_real_adapter(world: World) -> None:
    """Rented, timed, trained, stopped and seen stopped; the books are never below the bill."""
    world.set_script(steps=30)
    machine = world.start_training(job())
    world.until(lambda: machine.timer_ms is not None, 60, "the timer")
    lease = world.lease
    assert lease is not None
    assert machine.timer_ms is not None
    assert machine.timer_ms <= lease.end_utc_ms + lease.latency_ms
    world.until_final(within_s=600)
    assert world.job().state == "finished"
    assert not world.cloud.charged
    bill, books = world.cloud.machine_micros(machine), world.posted()
    # The platform does not say when its meter began and ended: two looks may lie between.
    assert bill <= books <= bill + 2 * POLL_S * world.cloud.price // 3_600


def test_the_platforms_timer_stops_it_when_the_daemon_is_dead(world: World) -> None:
    """What the drill shows on a live account, here over the wire."""
    world.set_script(steps=100_000)
    machine = world.start_training(job())
    world.until(lambda: machine.timer_ms is not None, 60, "the timer")
    world.cloud.habits.guest_stop_ignored = True
    world.kill()
    world.pass_time(LEASE_MS + 300_000)
    assert machine.power == "stopped"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_unclear_create_is_resolved_by_our_tag(
    world: World, bridge: Bridge, after: bool
) -> None:
    """Whether or not the platform had rented: in the end there is one machine, and it trains."""
    bridge.fail("create", "cut", after=after, times=1)
    world.set_script(steps=5)
    world.submit(job())
    world.until_state("training", within_s=120)
    assert len(world.cloud.machines) == 1
    assert bridge.counts["create"] == 1 + (not after)


def autodl_job() -> Any:
    """No timer and nothing proven from inside: the user has said that best effort will do."""
    wish = {"image": "image-a", "gpu": "RTX 3090 48G"}
    spec = spec_of(yuan=100, wish=wish, best_effort=True)
    return replace(spec, lease_ms=LEASE_MS)


def test_a_job_runs_to_its_end_on_autodl(autodl: World) -> None:
    """Rented, trained, stopped and seen stopped; the books are never below the bill."""
    autodl.set_script(steps=30)
    machine = autodl.start_training(autodl_job())
    autodl.until_final(within_s=600)
    assert autodl.job().state == "finished"
    assert not autodl.cloud.charged
    bill, books = autodl.cloud.machine_micros(machine), autodl.posted()
    assert bill <= books <= bill + 2 * POLL_S * autodl.cloud.price // 3_600


def test_a_pause_while_it_is_starting_is_not_lost_for_good(autodl: World) -> None:
    """AutoDL says yes and forgets it: the stop comes again until it has been seen to work."""
    autodl.cloud.habits.start_ms = 40_000
    autodl.submit(autodl_job())
    autodl.until(lambda: autodl.cloud.machines, 60, "the machine")
    autodl.commands.pause({"job": "job"})
    autodl.until_final(within_s=600)
    assert autodl.job().state == "paused"
    assert not autodl.cloud.charged
    (machine,) = autodl.cloud.machines
    assert (machine.power, machine.boots) == ("stopped", 1), "it had come up: the first was lost"
