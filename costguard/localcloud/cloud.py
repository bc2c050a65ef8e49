"""What the platform does for each call of its API: the rules of renting."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from costguard.localcloud.errors import (
    ApiError,
    bad_request,
    insufficient_balance,
    no_capacity,
    not_found,
    wrong_state,
)
from costguard.localcloud.faults import FaultError, Rule
from costguard.localcloud.hostkeys import generate
from costguard.localcloud.meter import Line, amount_micros, format_yuan
from costguard.localcloud.order import Order, read_order, read_stop_at
from costguard.localcloud.state import OFF, STARTING, STOPPED, STOPPING, Instance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.localcloud.machine import Machines
    from costguard.localcloud.power import Power
    from costguard.localcloud.registry import Registry

PAGE_SIZE = 20
MS_PER_S = 1_000
AMOUNT_PLACES = 6
WRONG_BILL_FACTOR = 2


class Cloud:
    """The platform without its wire: every method is one call, and answers with JSON types."""

    def __init__(self, registry: Registry, power: Power, machines: Machines) -> None:
        self._registry = registry
        self._power = power
        self._machines = machines
        self._options = registry.options
        self._faults = registry.faults
        self._lock = registry.changed
        self.requests: Counter[str] = Counter()

    def offers(self) -> dict[str, Any]:
        """Every GPU type: the price of one card per hour, and how many are free."""
        with self._lock:
            return {
                "offers": [
                    {
                        "gpu": gpu,
                        "price_yuan_per_hour": format_yuan(
                            self._registry.price_micros_per_hour(gpu)
                        ),
                        "disk_price_yuan_per_hour": format_yuan(
                            self._options.disk_price_micros_per_hour
                        ),
                        "billing": self._options.rules.as_json(self._options.quantum_s),
                        "stock": self._registry.free_stock(gpu),
                    }
                    for gpu in self._options.prices
                ]
            }

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Rent an instance; it starts by itself. Nothing is rented on any error."""
        order = read_order(body, self._options, self._registry.now_ms())
        with self._lock:
            instance = self._make(order)
            if order.max_price_micros is not None:
                self._check_price(instance.price_micros_per_hour, order.max_price_micros)
            self._check_startable(instance, "create")
            try:
                self._machines.make_disk(instance)
                self._registry.add(instance)
            except (OSError, sqlite3.Error) as error:
                self._machines.delete_disk(instance.id)
                raise _storage_error(error) from error
            self._power.turn_on(instance, "create")
            return instance.as_json()

    def list_page(self, tag: str | None, page: int) -> dict[str, Any]:
        """One page of the instances, newest first, of one tag or all."""
        with self._lock:
            found = [one for one in self._registry.present() if tag is None or one.tag == tag]
            found.reverse()
            shown = found[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
            return {"instances": [one.as_json() for one in shown], "total": len(found)}

    def get(self, instance_id: str) -> dict[str, Any]:
        """One instance."""
        with self._lock:
            return self._present(instance_id).as_json()

    def start(self, instance_id: str) -> dict[str, Any]:
        """Turn on; an instance that is on already is left as it is."""
        with self._lock:
            instance = self._present(instance_id)
            if instance.status == STOPPING:
                raise wrong_state(f"{instance_id} is stopping; start it when it is stopped")
            if instance.status in (STOPPED, OFF):
                self._check_startable(instance, "start")
                self._power.turn_on(instance, "start")
            return instance.as_json()

    def stop(self, instance_id: str, route: str = "stop") -> dict[str, Any]:
        """Turn off; an instance that is off already is left as it is."""
        with self._lock:
            instance = self._present(instance_id)
            refuses = instance.status == STARTING and self._faults.hit(
                "refuse_stop_while_starting", route
            )
            if refuses:
                raise wrong_state(f"{instance_id} is starting; stop it when it is running")
            ignored = self._faults.hit("stop_ignored", route) is not None
            try:
                self._registry.store.add_stop_call(
                    instance_id, self._registry.now_ms(), route, ignored=ignored
                )
            finally:  # a call that cannot be noted still stops
                if not ignored:
                    self._power.turn_off(instance, route)
            return instance.as_json()

    def power_off(self, guest_token: str) -> dict[str, Any]:
        """What `stop` does, for the instance that holds this token."""
        with self._lock:
            for instance in self._registry.present():
                if secrets.compare_digest(instance.guest_token.encode(), guest_token.encode()):
                    return self.stop(instance.id, "power_off")
        raise ApiError(
            HTTPStatus.UNAUTHORIZED, "unauthorized", "X-Instance-Token is of no instance here"
        )

    def release(self, instance_id: str) -> dict[str, Any]:
        """Give an instance that is off back: its disk is deleted, its bill stays."""
        with self._lock:
            instance = self._present(instance_id)
            if instance.status not in (STOPPED, OFF):
                raise wrong_state(f"{instance_id} is {instance.status}; stop it first")
            now_ms = self._registry.now_ms()
            instance.close_meter(now_ms)
            instance.status = STOPPED
            instance.released_at_ms = now_ms
            self._registry.save(instance)
        self._machines.delete_disk(instance_id)
        return {"id": instance_id, "released_at_ms": now_ms}

    def set_timer(self, instance_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Set the time at which the instance is turned off, or clear it with null."""
        if set(body) != {"at"}:
            raise bad_request('expected {"at": UTC milliseconds or null} and nothing else')
        with self._lock:
            instance = self._present(instance_id)
            at_ms = read_stop_at(body["at"], "at", self._options, self._registry.now_ms())
            if self._faults.hit("timer_lost", "timer") is not None:
                return {**instance.as_json(), "stop_at_ms": at_ms}
            instance.stop_at_ms = at_ms
            self._registry.save(instance)
            self._lock.notify_all()
            return instance.as_json()

    def wallet(self) -> dict[str, Any]:
        """What is left of what was paid in."""
        with self._lock:
            return {"balance_yuan": format_yuan(self._registry.balance_micros())}

    def bill(self, instance_id: str | None) -> dict[str, Any]:
        """The bill of one instance or all, released ones included; open lines run to now."""
        late_ms = int(self._faults.seconds("late_bill_s", "bill") * MS_PER_S)
        wrong = self._faults.hit("wrong_bill", "bill")
        with self._lock:
            instances = self._registry.ever()
            if instance_id is not None:
                instances = [one for one in instances if one.id == instance_id]
                if not instances:
                    raise not_found(f"there was never an instance {instance_id}")
            as_of_ms = self._registry.now_ms() - late_ms
            lines = [line for one in instances for line in one.bill_lines(as_of_ms)]
        amounts = [_billed(line.amount_micros, wrong) for line in lines]
        return {
            "lines": [
                _line_json(line, amount) for line, amount in zip(lines, amounts, strict=True)
            ],
            "total_yuan": format_yuan(sum(amounts), places=AMOUNT_PLACES),
        }

    def set_faults(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set and clear faults; clearing one undoes what it still holds up."""
        try:
            self._faults.merge(changes)
        except FaultError as error:
            raise bad_request(str(error)) from None
        with self._lock:
            self._registry.reprice()
            if not self._faults.is_set("off_but_billing"):
                for instance in self._registry.present():
                    if instance.status == OFF:
                        self._power.stop_charging(instance)
            return self._faults.as_json()

    def faults(self) -> dict[str, Any]:
        """The faults that are set."""
        return self._faults.as_json()

    def truth(self) -> dict[str, Any]:
        """Everything the platform really knows, released instances included."""
        with self._lock:
            now_ms = self._registry.now_ms()
            stop_calls = self._registry.store.stop_calls()
            instances = [_truth_json(one) for one in self._registry.ever()]
        for shown in instances:
            shown["processes"] = self._machines.running_processes(shown["id"])
        return {
            "pid": os.getpid(),
            "now_ms": now_ms,
            "requests": dict(self.requests),
            "stop_calls": stop_calls,
            "instances": instances,
        }

    def _present(self, instance_id: str) -> Instance:
        instance = self._registry.find(instance_id)
        if instance is None or instance.released_at_ms is not None:
            raise not_found(f"there is no instance {instance_id}")
        return instance

    def _make(self, order: Order) -> Instance:
        private, public = generate()
        instance_id = f"i-{secrets.token_hex(6)}"
        price = self._registry.price_micros_per_hour(order.gpu) * order.gpu_count
        return Instance(
            id=instance_id,
            name=order.name,
            tag=order.tag,
            gpu=order.gpu,
            gpu_count=order.gpu_count,
            image=order.image,
            region=order.region,
            ssh_public_key=order.ssh_public_key,
            host_private_key=private,
            host_key=public,
            guest_token=secrets.token_urlsafe(32),
            created_at_ms=self._registry.now_ms(),
            price_micros_per_hour=price,
            disk_price_micros_per_hour=self._options.disk_price_micros_per_hour,
            quantum_s=self._options.quantum_s,
            rules=self._options.rules,
            work_dir=str(self._machines.work_dir(instance_id)),
            stop_at_ms=order.stop_at_ms,
        )

    def _check_price(self, price_micros: int, max_price_micros: int) -> None:
        if price_micros > max_price_micros:
            raise bad_request(
                f"max_price_yuan_per_hour: the price is {format_yuan(price_micros)}, "
                f"more than {format_yuan(max_price_micros)}"
            )

    def _check_startable(self, instance: Instance, route: str) -> None:
        first_micros = amount_micros(1, instance.quantum_s, instance.price_micros_per_hour)
        balance_micros = self._registry.balance_micros()
        if balance_micros < first_micros:
            raise insufficient_balance(
                f"the wallet holds {format_yuan(balance_micros)} yuan, the first "
                f"{instance.quantum_s} s cost {format_yuan(first_micros)}"
            )
        is_short = self._registry.free_stock(instance.gpu) < instance.gpu_count
        if is_short or self._faults.hit("no_capacity", route) is not None:
            raise no_capacity(f"no {instance.gpu_count} x {instance.gpu} free now; try later")


def _storage_error(error: Exception) -> ApiError:
    return ApiError(
        HTTPStatus.INSUFFICIENT_STORAGE, "storage", f"the platform cannot write: {error}"
    )


def _billed(micros: int, wrong: Rule | None) -> int:
    return micros if wrong is None else int(micros * wrong.extras.get("factor", WRONG_BILL_FACTOR))


def _line_json(line: Line, billed_micros: int) -> dict[str, Any]:
    return {
        "line": line.line,
        "instance": line.line.partition("/")[0],
        "kind": line.kind,
        "started_at_ms": line.started_at_ms,
        "ended_at_ms": line.ended_at_ms,
        "quantum_s": line.quantum_s,
        "quanta": line.quanta,
        "price_yuan_per_hour": format_yuan(line.price_micros_per_hour),
        "amount_yuan": format_yuan(billed_micros, places=AMOUNT_PLACES),
    }


def _truth_json(instance: Instance) -> dict[str, Any]:
    return {
        **instance.as_json(),
        "released_at_ms": instance.released_at_ms,
        "last_error": instance.last_error,
        "meter": instance.to_document()["intervals"],
    }
