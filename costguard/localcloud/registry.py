"""The instances, their lock, and the store that every change is written through to."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING

from costguard.localcloud.state import ON, Instance

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.localcloud.faults import Faults
    from costguard.localcloud.options import Options
    from costguard.localcloud.store import Store


def utc_ms() -> int:
    """Now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Registry:
    """All instances there ever were. `changed` is the lock; notify it when a wait may be over."""

    def __init__(
        self, options: Options, store: Store, faults: Faults, now_ms: Callable[[], int] = utc_ms
    ) -> None:
        self.options = options
        self.store = store
        self.faults = faults
        self.now_ms = now_ms
        self.changed = threading.Condition(threading.RLock())
        self.is_closing = False
        self._instances = {one.id: one for one in store.load()}
        self._unsaved: set[str] = set()

    def ever(self) -> list[Instance]:
        """Every instance, released ones included, oldest first."""
        return list(self._instances.values())

    def present(self) -> list[Instance]:
        """Every instance that has not been released, oldest first."""
        return [one for one in self._instances.values() if one.released_at_ms is None]

    def find(self, instance_id: str) -> Instance | None:
        """The instance with this id, released or not."""
        return self._instances.get(instance_id)

    def add(self, instance: Instance) -> None:
        """Take in a new instance; sqlite3.Error, and nothing taken in, if it cannot be written."""
        self.store.save([instance])
        self._instances[instance.id] = instance

    def save(self, *instances: Instance) -> None:
        """Write them now, or as soon as it is possible: a full disk keeps nobody from stopping."""
        self._unsaved.update(one.id for one in instances)
        try:
            self.store.save([self._instances[one] for one in self._unsaved])
        except sqlite3.Error as error:
            sys.stderr.write(f"localcloud: cannot write the state, will try again: {error}\n")
        else:
            self._unsaved.clear()

    def retry_unsaved(self) -> None:
        """Write what could not be written before."""
        if self._unsaved:
            self.save()

    def price_micros_per_hour(self, gpu: str) -> int:
        """What one card of this type costs now."""
        return self.faults.price_micros(gpu, self.options.prices[gpu])

    def reprice(self) -> None:
        """Bring the price now in force to every instance; open intervals are split at this time."""
        now_ms = self.now_ms()
        changed = []
        for instance in self.present():
            if instance.gpu not in self.options.prices:
                continue  # no longer on offer: what was rented keeps its price
            price = self.price_micros_per_hour(instance.gpu) * instance.gpu_count
            if price != instance.price_micros_per_hour:
                instance.set_price(now_ms, price)
                changed.append(instance)
        if changed:
            self.save(*changed)

    def free_stock(self, gpu: str) -> int:
        """How many cards of this type no instance holds."""
        held = sum(one.gpu_count for one in self.present() if one.gpu == gpu and one.status in ON)
        return max(self.options.stock - held, 0)

    def balance_micros(self) -> int:
        """The wallet: what was paid in, less everything metered up to now."""
        now_ms = self.now_ms()
        lines = [line for instance in self.ever() for line in instance.bill_lines(now_ms)]
        return self.options.balance_micros - sum(line.amount_micros for line in lines)

    def is_idle(self) -> bool:
        """True while no instance is on and none is charged for computing."""
        return not any(one.status in ON or one.is_charging for one in self.present())
