from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.localcloud import guest, machine
from costguard.localcloud.machine import MachineError, Machines
from costguard.localcloud.state import Instance
from tests.localcloud.world import JANUARY_MS, USER_KEY, USER_PUBLIC_KEY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    """The machines of a home of their own."""
    return Machines(tmp_path)


@pytest.fixture
def instance(machines: Machines) -> Instance:
    """An instance with its disk laid out."""
    made = Instance(
        id="i-machine",
        name="n",
        tag="",
        gpu="A10",
        gpu_count=1,
        image="",
        region="",
        ssh_public_key=USER_PUBLIC_KEY,
        host_private_key=USER_KEY,
        host_key=USER_PUBLIC_KEY,
        guest_token="guest-token",
        created_at_ms=JANUARY_MS,
        price_micros_per_hour=1,
        disk_price_micros_per_hour=0,
        quantum_s=1,
        work_dir=str(machines.work_dir("i-machine")),
    )
    machines.make_disk(made)
    return made


def test_nothing_starts_after_close(machines: Machines, instance: Instance) -> None:
    """While the platform shuts down, a boot that comes late fails instead of being left behind."""
    machines.close()
    with pytest.raises(MachineError, match="shutting down"):
        machines.start(instance)
    assert machines.running_processes(instance.id) == []


def test_boot_that_fails_tells_why(machines: Machines, instance: Instance) -> None:
    """The error carries what the instance's process wrote before it died."""
    instance.host_private_key = "no key"
    with pytest.raises(MachineError, match=r"not a valid|SSHException|ValueError"):
        machines.start(instance)
    machines.kill(instance.id)


def test_boot_that_takes_too_long_fails(
    machines: Machines, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that does not report in time counts as failed, and is ended by kill."""
    monkeypatch.setattr(machine, "BOOT_TIMEOUT_S", 0.0)
    with pytest.raises(MachineError, match="did not come up"):
        machines.start(instance)
    assert len(machines.running_processes(instance.id)) == 1
    machines.kill(instance.id)
    assert machines.running_processes(instance.id) == []


def test_time_of_a_power_cut_is_forgotten_at_the_next_boot(
    machines: Machines, instance: Instance, tmp_path: Path
) -> None:
    """An old note does not date a later power cut."""
    assert machines.power_cut_at_ms(instance.id) is None
    (tmp_path / "machines" / "i-machine.off").write_text("123")
    assert machines.power_cut_at_ms(instance.id) == 123
    machines.start(instance)
    assert machines.power_cut_at_ms(instance.id) is None
    machines.kill(instance.id)


def test_disk_keeps_what_the_guest_has_changed(instance: Instance) -> None:
    """Laying out the disk anew mends the power-off commands, and leaves the guest's files alone."""
    (instance.disk / ".profile").write_text("mine")
    (instance.disk / "bin" / "shutdown").unlink()
    (instance.disk / "bin" / "own").write_text("mine")
    guest.furnish(instance)
    assert (instance.disk / ".profile").read_text() == "mine"
    assert (instance.disk / "bin" / "own").read_text() == "mine"
    assert (instance.disk / "bin" / "shutdown").exists()
