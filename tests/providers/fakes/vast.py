"""Vast.ai on the wire, with its traps, held against the published document."""

from __future__ import annotations

import json
from typing import Any

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply
from tests.providers.openapi import OpenApi

# What is, what is meant to be, and what the machine does, for each power.
STATES: dict[str, tuple[str | None, str, str]] = {
    "starting": ("loading", "running", "running"),
    "running": ("running", "running", "running"),
    "stopping": ("running", "stopped", "running"),
    "stopped": ("exited", "stopped", "stopped"),
    "scheduling": ("exited", "running", "stopped"),
    "frozen": ("frozen", "running", "running"),
    "offline": ("offline", "running", "running"),
    "null": (None, "running", "running"),
    "gone_off": ("exited", "stopped", "running"),
}
TROUBLES = {
    "wrong": (401, "auth_error", "Invalid user key"),
    "expired": (401, "auth_error", "the key has expired"),
    "unverified": (403, "invalid_args", "please verify your e-mail"),
    "arrears": (400, "missing_billing", "add a card first"),
    "region": (400, "invalid_args", "unknown geolocation"),
}
MARKET = [
    ("RTX 3090", 1, 1.0, "SE"),
    ("RTX 3090", 1, 0.0, "SE"),  # 0.0: the price of the day
    ("RTX 3090", 2, 0.0, "SE"),
    ("RTX 4090", 1, 0.5, "US"),
]


class FakeVast(FakePlatform):
    """The platform behind `https://console.vast.ai`."""

    routes = ("list", "read", "create", "start", "stop", "release", "offers")

    def __init__(self) -> None:
        super().__init__()
        self.document = OpenApi("vast.yaml")
        self.price = "2"
        self.attached: list[str] = []

    def new_id(self, number: int) -> str:
        """Ids are numbers here."""
        return str(7_000_000 + number)

    def route_of(self, call: Call) -> str:
        """By method, path and what the body says."""
        path = call.path.rstrip("/")
        if path == "/api/v1/instances":
            return "list"
        if path.startswith("/api/v0/asks/"):
            return "create"
        if path.endswith("/ssh"):
            return "attach"
        if path.startswith("/api/v0/instances/"):
            if call.method == "PUT":
                return {"running": "start", "stopped": "stop"}[call.json["state"]]
            return {"GET": "read", "DELETE": "release"}[call.method]
        return {
            "/api/v0/bundles": "offers",
            "/api/v0/users/current": "balance",
            "/api/v0/charges": "bill",
        }[path]

    def answer(self, route: str, call: Call) -> Reply:
        """One call; requests and answers are held against the published document."""
        body = call.json if call.text else None
        self.document.request(call.method, call.path, call.query, body)
        reply = self._answer(route, call, body or {})
        # Absence is not in the document for a read, nor are some answers to a wrong key.
        if reply.status // 100 == 2:
            self.document.answer(call.method, call.path, reply.status, reply.body)
        return reply

    def _answer(self, route: str, call: Call, body: dict[str, Any]) -> Reply:
        token = call.headers["Authorization"]
        if token != f"Bearer {self.secrets[0]}":
            return self._no(401, "auth_error", f"bad key {token}")
        if self.trouble is not None:
            status, error, message = TROUBLES[self.trouble]
            return self._no(status, error, f"{message} [{token}]")
        if call.path.startswith("/api/v0/instances/"):
            machine = self.machines.get(call.path.split("/")[4])
            if machine is None or machine.power == "gone":
                return self._no(404, "no_such_instance", "no such instance")
            return self._on(route, machine, body)
        handler = getattr(self, f"_{route}")
        reply = handler(call, body)
        return reply if isinstance(reply, Reply) else Reply(reply)

    def _no(self, status: int, error: str, message: str) -> Reply:
        return Reply({"success": False, "error": error, "msg": message}, status)

    def _on(self, route: str, machine: Machine, body: dict[str, Any]) -> Reply:
        if route == "read":
            return Reply({"instances": self._item(machine, "read")})
        if route == "attach":
            self.attached.append(body["ssh_key"])
        elif route == "release":
            machine.power = "gone"
        elif route == "stop":
            machine.power = "stopping" if machine.power != "stopped" else "stopped"
        elif "no_capacity" in self.habits:
            machine.power = "scheduling"  # the trap: it is queued, whatever the answer says
            if "says_so" in self.habits:
                return self._no(400, "resources_unavailable", "state change queued")
        else:
            self.switch_on(machine)
        return Reply({"success": True})

    def _item(self, machine: Machine, route: str) -> dict[str, Any]:
        actual, meant, does = STATES.get(machine.power, (machine.power, "running", "running"))
        item = {
            "id": int(machine.id),
            "actual_status": actual,
            "intended_status": meant,
            "cur_state": does,
            "label": machine.tag,
            "gpu_name": machine.gpu,
            "num_gpus": machine.count,
            "dph_total": float(self.price) * machine.count,
            "storage_total_cost": 0.01,
            "ssh_host": "127.0.0.1",
            "ssh_port": machine.port,
            "start_date": float(machine.created_s),
            "end_date": float(self.now_s + 86_400),
        }
        return item if route == "list" else {**item, "ports": []}

    def _list(self, call: Call, body: dict[str, Any]) -> Any:
        del body
        limit, after = int(call.query["limit"]), int(call.query.get("after_token", "0"))
        assert limit <= 25
        there = [machine for machine in self.machines.values() if machine.power != "gone"]
        page = [self._item(machine, "list") for machine in there[after : after + limit]]
        more = str(after + limit) if after + limit < len(there) else None
        return {
            "success": True,
            "instances_found": len(page),
            "total_instances": len(there),
            "next_token": more,
            "instances": page,
        }

    def _offers(self, call: Call, body: dict[str, Any]) -> Any:
        del call
        wanted = body.get("gpu_name", {}).get("in")
        places = body.get("geolocation", {}).get("in")
        found = []
        for number, (name, count, dearer, place) in enumerate(MARKET):
            is_wanted = wanted is None or name in wanted
            if not is_wanted or count not in body["num_gpus"]["in"]:
                continue
            if places is not None and place not in places:
                continue
            if "sold_out" in self.habits and wanted is not None:
                continue
            found.append(
                {
                    "id": 100 + number,
                    "machine_id": 9,
                    "gpu_name": name,
                    "num_gpus": count,
                    "gpu_ram": 24_576,
                    "dph_total": (float(self.price) + dearer) * count,
                    "storage_total_cost": 0.01,
                    "geolocation": f"Somewhere, {place}",
                }
            )
        return {"offers": found}

    def _create(self, call: Call, body: dict[str, Any]) -> Any:
        if "no_capacity" in self.habits:
            return self._no(410, "no_such_ask", "Instance type is no longer available.")
        name, count, _, _ = MARKET[int(call.path.split("/")[4]) - 100]
        machine = self.make(body["label"], name, count, body)
        machine.asked["ask"] = call.path.split("/")[4]
        return {"success": True, "new_contract": int(machine.id)}

    def _balance(self, call: Call, body: dict[str, Any]) -> Any:
        del call, body
        return {"id": 1, "balance": 12.5}

    def _bill(self, call: Call, body: dict[str, Any]) -> Any:
        del body
        filters = json.loads(call.query["select_filters"])
        assert filters["type"] == {"in": ["instance"]}
        base = {"start": self.now_s, "end": self.now_s + 3600, "source": None}
        items = [
            {**base, "type": "gpu", "amount": 2.0},
            {**base, "type": "disk", "amount": 0.01},
            {**base, "type": "bwd", "amount": 0.003},
        ]
        entry = {**base, "type": "instance", "amount": 2.013, "items": items}
        if "after_token" in call.query:
            results, more = [{**entry, "source": "instance-7000001"}], None
        else:
            results, more = [{**entry, "source": "instance-5"}], "next"
        return {"success": True, "count": 1, "total": 2, "next_token": more, "results": results}
