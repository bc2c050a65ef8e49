"""Power: turning instances on and off over time, their meters with them, and the stop timers.

Each instance in transition has one thread that works towards its status until it rests; whoever
wants something else sets the status and notifies. All state is changed under the registry's lock;
processes are started and ended outside it, so that one instance never waits for another.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

from costguard.localcloud.machine import MachineError
from costguard.localcloud.state import OFF, ON, RUNNING, STARTING, STOPPED, STOPPING, Instance

if TYPE_CHECKING:
    import subprocess

    from costguard.localcloud.registry import Registry

MS_PER_S = 1_000
TICK_S = 1.0


class Switches(Protocol):
    """What power needs of `machine.Machines`."""

    def start(self, instance: Instance) -> tuple[int, subprocess.Popen[bytes]]:
        """Switch on; MachineError if it does not come up."""

    def kill(self, instance_id: str) -> None:
        """Switch off; returns when nothing is left."""

    def is_current(self, instance_id: str, process: subprocess.Popen[bytes]) -> bool:
        """Whether the instance now runs in this process."""

    def close(self) -> None:
        """Start nothing from now on."""

    def power_cut_at_ms(self, instance_id: str) -> int | None:
        """When the instance ended itself without the platform."""


class Power:
    """The power supply of every instance."""

    def __init__(self, registry: Registry, machines: Switches) -> None:
        self._registry = registry
        self._machines = machines
        self._changed = registry.changed
        self._driven: set[str] = set()
        self._causes: dict[str, str] = {}
        # When a due timer fires: (the time it was set to, when it will fire or None for never).
        self._fires: dict[str, tuple[int, float | None]] = {}

    def recover(self) -> None:
        """After a restart: end what outlived the platform and close its meters.

        An instance that was on is stopped, as after a power cut. Its meter ends when its last
        process did: at the time it noted itself, or now if something had to be ended now.
        """
        with self._changed:
            for instance in self._registry.present():
                if instance.status not in ON and not instance.is_charging:
                    continue
                self._machines.kill(instance.id)
                off_at_ms = self._machines.power_cut_at_ms(instance.id)
                has_noted = instance.status in ON and off_at_ms is not None
                self._set_off(instance, off_at_ms if has_noted else None)
                instance.last_error = "the platform was restarted"
                self._registry.save(instance)

    def run_timers(self) -> None:
        """Fire stop timers until the platform closes; to be run in a thread of its own."""
        with self._changed:
            while not self._registry.is_closing:
                self._registry.retry_unsaved()
                now_ms = self._registry.now_ms()
                waits_ms = [self._tick(one, now_ms) for one in self._registry.present()]
                self._changed.wait(min([TICK_S * MS_PER_S, *waits_ms]) / MS_PER_S)

    def turn_on(self, instance: Instance, cause: str) -> None:
        """Begin to start an instance that is off, for the route `cause`. The lock is held."""
        now_ms = self._registry.now_ms()
        instance.close_meter(now_ms)  # of an instance that was off and still charged
        instance.status = STARTING
        instance.last_error = None
        self._causes[instance.id] = cause
        if self._registry.options.bill_from == "starting":
            instance.open_meter(now_ms)
        self._registry.save(instance)
        self._drive(instance)

    def turn_off(self, instance: Instance, cause: str) -> None:
        """Begin to stop an instance; one that is off and still charged has its meter stopped.

        The lock is held. `cause` is the route that asked, or `timer`, or `crash`.
        """
        if instance.status in (STARTING, RUNNING):
            instance.status = STOPPING
            self._causes[instance.id] = cause
            self._registry.save(instance)
            self._drive(instance)
        elif instance.status == OFF:
            self.stop_charging(instance)

    def stop_charging(self, instance: Instance) -> None:
        """End the charging of an instance that is off. The lock is held."""
        self._set_off(instance, None)
        self._registry.save(instance)

    def close(self) -> None:
        """End everything that runs and close every meter. Nothing starts again afterwards."""
        with self._changed:
            self._registry.is_closing = True
            self._changed.notify_all()
        self._machines.close()
        on = [one for one in self._registry.present() if one.status in ON]
        killers = [threading.Thread(target=self._machines.kill, args=(one.id,)) for one in on]
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
        with self._changed:
            left = [one for one in self._registry.present() if one.status in ON or one.is_charging]
            for instance in left:
                self._set_off(instance, None)
            self._registry.save(*left)

    def _set_off(self, instance: Instance, at_ms: int | None) -> None:
        instance.close_meter(self._registry.now_ms() if at_ms is None else at_ms)
        instance.status = STOPPED
        instance.port = None
        instance.stop_at_ms = None

    def _drive(self, instance: Instance) -> None:
        if instance.id not in self._driven:
            self._driven.add(instance.id)
            threading.Thread(target=self._work, args=(instance,), daemon=True).start()
        self._changed.notify_all()

    def _work(self, instance: Instance) -> None:
        while True:
            with self._changed:
                status = instance.status
                if self._registry.is_closing or status not in (STARTING, STOPPING):
                    self._driven.discard(instance.id)
                    return
            if status == STARTING:
                self._boot(instance)
            else:
                self._halt(instance)

    def _boot(self, instance: Instance) -> None:
        delay_s = self._registry.options.start_s
        delay_s += self._registry.faults.seconds("slow_start_s", self._causes[instance.id])
        if not self._stays(instance, STARTING, delay_s):
            return
        try:
            port, process = self._machines.start(instance)
        except MachineError as error:
            sys.stderr.write(f"localcloud: {error}\n")
            with self._changed:
                instance.last_error = str(error)
                self.turn_off(instance, "crash")
            return
        threading.Thread(target=self._watch, args=(instance, process), daemon=True).start()
        with self._changed:
            if instance.status != STARTING or self._registry.is_closing:
                return  # stopped meanwhile: halting ends the process
            instance.status = RUNNING
            instance.boots += 1
            instance.port = port
            instance.open_meter(self._registry.now_ms())
            self._registry.save(instance)
            self._changed.notify_all()

    def _halt(self, instance: Instance) -> None:
        cause = self._causes[instance.id]
        delay_s = self._registry.options.stop_s
        delay_s += self._registry.faults.seconds("slow_stop_s", cause)
        ends_at = time.monotonic() + delay_s
        self._machines.kill(instance.id)
        if not self._stays(instance, STOPPING, ends_at - time.monotonic()):
            return
        keeps_charging = self._registry.faults.hit("off_but_billing", cause) is not None
        with self._changed:
            if self._registry.is_closing:
                return
            if keeps_charging and instance.is_charging:
                instance.status, instance.port, instance.stop_at_ms = OFF, None, None
            else:
                self._set_off(instance, None)
            self._registry.save(instance)
            self._changed.notify_all()

    def _stays(self, instance: Instance, status: str, seconds: float) -> bool:
        """Wait; False as soon as the instance is to do something else, or the platform closes."""
        with self._changed:
            return not self._changed.wait_for(
                lambda: instance.status != status or self._registry.is_closing, seconds
            )

    def _watch(self, instance: Instance, process: subprocess.Popen[bytes]) -> None:
        """Turn the instance off if its process ends by itself."""
        process.wait()
        with self._changed:
            if self._machines.is_current(instance.id, process) and not self._registry.is_closing:
                instance.last_error = "the instance's process ended by itself"
                self.turn_off(instance, "crash")

    def _tick(self, instance: Instance, now_ms: int) -> float:
        """Fire the instance's timer if it is due; the ms until there may be something to do."""
        idle: float = TICK_S * MS_PER_S
        at_ms = instance.stop_at_ms
        if at_ms is None:
            return idle
        if now_ms < at_ms:
            return at_ms - now_ms
        if instance.id not in self._fires or self._fires[instance.id][0] != at_ms:
            self._fires[instance.id] = (at_ms, self._fire_time(at_ms))
        fire_at_ms = self._fires[instance.id][1]
        if fire_at_ms is None:
            return idle
        if now_ms < fire_at_ms:
            return fire_at_ms - now_ms
        if instance.status in (STARTING, RUNNING):
            self.turn_off(instance, "timer")
        elif instance.status != STOPPING:
            instance.stop_at_ms = None
            self._registry.save(instance)
        return idle

    def _fire_time(self, at_ms: int) -> float | None:
        faults = self._registry.faults
        if faults.hit("timer_ignored", "timer") is not None:
            return None
        return at_ms + faults.seconds("timer_late_s", "timer") * MS_PER_S
