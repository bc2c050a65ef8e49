from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.localcloud.world import JANUARY_MS, CloudWorld

if TYPE_CHECKING:
    from pathlib import Path

    from tests.localcloud.world import Clock


def died_running(home: Path, clock: Clock) -> tuple[CloudWorld, str]:
    """A cloud that has lost its platform with one instance running, opened anew."""
    first = CloudWorld(home, clock)
    instance_id = first.create()
    first.store.close()
    return CloudWorld(home, clock), instance_id


@pytest.mark.parametrize(("noted_ms", "ended_ms"), [(4_000, 4_000), (None, 9_000)])
def test_meter_ends_when_the_last_process_did(
    tmp_path: Path, clock: Clock, noted_ms: int | None, ended_ms: int
) -> None:
    """At the time that the instance noted when it ended itself, or at the restart if it did not."""
    world, instance_id = died_running(tmp_path, clock)
    clock.ms += 9_000
    if noted_ms is not None:
        world.machines.power_cuts[instance_id] = JANUARY_MS + noted_ms
    world.power.recover()
    with world.open():
        shown = world.cloud.get(instance_id)
        assert (shown["status"], shown["charging"]) == ("stopped", False)
        assert shown["charged_until_ms"] == JANUARY_MS + ended_ms


def test_off_but_charged_ends_with_the_fault(tmp_path: Path, clock: Clock) -> None:
    """Faults do not outlive the platform, nor does what they held up."""
    first = CloudWorld(tmp_path, clock)
    instance_id = first.create()
    first.faults.merge({"off_but_billing": True})
    first.stop(instance_id, expected="off")
    first.store.close()
    clock.ms += 5_000
    world = CloudWorld(tmp_path, clock)
    world.power.recover()
    with world.open():
        shown = world.cloud.get(instance_id)
        assert (shown["status"], shown["charged_until_ms"]) == ("stopped", JANUARY_MS + 5_000)


def test_everything_known_survives(tmp_path: Path, clock: Clock) -> None:
    """Instances, their bill with its price changes, and stop calls are as they were."""
    first = CloudWorld(tmp_path, clock, disk_price_micros_per_hour=36_000)
    kept, gone = first.create(tag="kept"), first.create()
    clock.ms += 5_000
    first.cloud.set_faults({"price": "18"})
    clock.ms += 5_000
    for one in (kept, gone):
        first.stop(one)
    first.cloud.release(gone)
    first.cloud.set_faults({"price": None})
    before = (first.cloud.get(kept), first.cloud.bill(None), first.store.stop_calls())
    first.store.close()
    world = CloudWorld(tmp_path, clock, disk_price_micros_per_hour=36_000)
    world.power.recover()
    with world.open():
        assert (world.cloud.get(kept), world.cloud.bill(None), world.store.stop_calls()) == before
        assert world.cloud.list_page(None, 1)["total"] == 1


def test_closing_stops_everything_and_every_meter(tmp_path: Path, clock: Clock) -> None:
    """After close nothing runs and nothing is charged, and the store says so."""
    world = CloudWorld(tmp_path, clock)
    with world.open():
        running, charged = world.create(), world.create()
        world.faults.merge({"off_but_billing": True})
        world.stop(charged, expected="off")
        clock.ms += 3_000
    assert world.machines.running == {}
    again = CloudWorld(tmp_path, clock)
    with again.open():
        for instance_id in (running, charged):
            shown = again.cloud.get(instance_id)
            assert (shown["status"], shown["charged_until_ms"]) == ("stopped", JANUARY_MS + 3_000)
