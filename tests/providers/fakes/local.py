"""The wire format of the embedded platform, so that its adapter runs through the same suite.

The platform itself, with its meter and its SSH servers, is what `test_local.py` runs against.
"""

from __future__ import annotations

from typing import Any

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply

PAGE = 20
TROUBLES = {
    "wrong": (401, "unauthorized", "the token is missing or not valid here"),
    "expired": (401, "unauthorized", "the token is expired, or not valid here"),
    "arrears": (402, "no_money", "the wallet is empty: nothing is paid"),
}


class FakeLocal(FakePlatform):
    """The platform behind `provider = "local"`."""

    routes = ("list", "read", "create", "timer", "offers")
    tells = ("wrong", "expired")

    def route_of(self, call: Call) -> str:
        """By method and path."""
        parts = call.path.removeprefix("/v1/").split("/")
        if parts[0] != "instances":
            return {"offers": "offers", "bill": "bill", "wallet": "balance"}[parts[0]]
        if len(parts) == 1:
            return {"GET": "list", "POST": "create"}[call.method]
        if len(parts) == 2:
            return {"GET": "read", "DELETE": "release"}[call.method]
        return {"start": "start", "stop": "stop", "stop_timer": "timer"}[parts[2]]

    def answer(self, route: str, call: Call) -> Reply:
        """One call."""
        if call.headers["Authorization"] != f"Bearer {self.secrets[0]}":
            return self._no(*TROUBLES["wrong"])
        if self.trouble is not None:
            return self._no(*TROUBLES[self.trouble])
        parts = call.path.split("/")
        machine = self.machines.get(parts[3]) if len(parts) > 3 else None
        if len(parts) > 3 and (machine is None or machine.power == "gone"):
            return self._no(404, "not_found", "there is no such instance")
        if machine is not None:
            return self._on(route, machine, call)
        reply = getattr(self, f"_{route}")(call)
        return reply if isinstance(reply, Reply) else Reply(reply)

    def _no(self, status: int, code: str, message: str) -> Reply:
        return Reply({"error": {"code": code, "message": message}}, status)

    def _on(self, route: str, machine: Machine, call: Call) -> Reply:
        if route == "timer":
            at_ms = int(call.json["at"])
            if at_ms < self.now_s * 1_000 + 1_000:
                return self._no(400, "bad_request", "the timer is too near")
            if "timer_lost" not in self.habits:
                machine.timer_s = at_ms
        elif route == "release":
            machine.power = "gone"
        elif route == "start":
            if "no_capacity" in self.habits:
                return self._no(409, "no_capacity", "none free")
            self.switch_on(machine)
        elif route == "stop":
            self.switch_off(machine)
        return Reply(self._item(machine))

    def _item(self, machine: Machine) -> dict[str, Any]:
        is_on = machine.power == "running"
        ssh = {"host": "127.0.0.1", "port": machine.port, "user": "me", "host_key": "ssh-x AAAA"}
        return {
            "id": machine.id,
            "tag": machine.tag,
            "gpu": machine.gpu,
            "gpu_count": machine.count,
            "status": machine.power,
            "charging": machine.power != "stopped",
            "price_yuan_per_hour": str(float(self.price) * machine.count),
            "disk_price_yuan_per_hour": "0.1",
            "billing": {"quantum_s": 60},
            "charged_since_ms": None,
            "charged_until_ms": None,
            "stop_at_ms": machine.timer_s,
            "ssh": ssh if is_on else None,
            "work_dir": "/w",
            "created_at_ms": machine.created_s * 1_000,
        }

    def _list(self, call: Call) -> Any:
        page = int(call.query["page"])
        there = [machine for machine in self.machines.values() if machine.power != "gone"]
        items = [self._item(machine) for machine in there[(page - 1) * PAGE : page * PAGE]]
        return {"instances": items, "total": len(there)}

    def _create(self, call: Call) -> Any:
        body = call.json
        if body["gpu"] != "RTX 3090":
            return self._no(400, "unknown_gpu", "no such card")
        if "no_capacity" in self.habits:
            return self._no(409, "no_capacity", "none free")
        limit = body.get("max_price_yuan_per_hour")
        if limit is not None and float(limit) < float(self.price):
            return self._no(400, "too_dear", "above the limit of ¥10.00")
        machine = self.make(body["tag"], body["gpu"], body["gpu_count"], body)
        machine.timer_s = body["stop_at"]
        return Reply(self._item(machine), 201)

    def _offers(self, call: Call) -> Any:
        del call
        offer = {
            "gpu": "RTX 3090",
            "price_yuan_per_hour": self.price,
            "disk_price_yuan_per_hour": "0.1",
            "billing": {"quantum_s": 60},
            "stock": 3,
        }
        return {"offers": [offer]}

    def _balance(self, call: Call) -> Any:
        del call
        return {"balance_yuan": "88.5"}
