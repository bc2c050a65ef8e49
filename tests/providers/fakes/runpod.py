"""RunPod's REST v2 and its GraphQL on the wire, with their traps, held against the document."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply
from tests.providers.openapi import OpenApi

STATES = {
    "starting": "STARTING",
    "running": "RUNNING",
    "stopping": "RUNNING",
    "stopped": "EXITED",
    "weird": "ERROR",
}
ACTIONS = {
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
    "TERMINATED": [],
}
TROUBLES = {
    "wrong": (401, "Unauthorized", "invalid API key"),
    "expired": (401, "Unauthorized", "the API key has expired"),
    "unverified": (403, "Forbidden", "please verify your email first"),
    "arrears": (400, "Bad Request", "your account balance is too low"),
    "region": (422, "Unprocessable", "unknown data center"),
}
CARDS = {
    "NVIDIA GeForce RTX 3090": 24,
    "NVIDIA A100 80GB PCIe": 80,
    "NVIDIA A100-SXM4-80GB": 80,
}
SOLD_OUT = "There are no longer any instances available with the requested specifications"


class FakeRunPod(FakePlatform):
    """The platform behind `https://api.runpod.io`."""

    routes = ("list", "read", "create", "start", "stop", "release", "offers")

    def __init__(self) -> None:
        super().__init__()
        self.document = OpenApi("runpod-v2.json")
        self.keys = ["ssh-ed25519 AAAAold somebody@else"]
        self.cardless: set[str] = set()  # pods whose host has no card free
        self.price = "2"
        self.deployed: dict[str, Any] = {}
        self.terminated = False

    def gpu_id(self) -> str:
        """The platform's id of the card."""
        return "NVIDIA GeForce RTX 3090"

    def route_of(self, call: Call) -> str:
        """By path and, for actions, by what the body says."""
        if call.path == "/graphql":
            return "balance" if "clientBalance" in call.json["query"] else "deploy"
        if call.path.endswith("/action"):
            return str(call.json["action"])
        if call.path == "/v2/pods":
            return {"GET": "list", "POST": "create"}[call.method]
        if call.path.startswith("/v2/pods/"):
            return {"GET": "read", "DELETE": "release"}[call.method]
        return {
            "/v2/account/ssh-keys": "keys",
            "/v2/catalog/gpus": "offers",
            "/v2/billing/pods": "bill",
        }[call.path]

    def answer(self, route: str, call: Call) -> Reply:
        """One call; requests and answers are held against the published document."""
        body = call.json if call.text else None
        if call.path == "/graphql":
            return self._graphql(route, call.json)
        self.document.request(call.method, call.path, call.query, body)
        reply = self._answer(route, call, body or {})
        sent = None if reply.status == 204 else reply.body
        if sent is not None:
            if route == "list" and "pods" in sent:
                sent = {"pods": sent["pods"][:2]}  # one is as good as hundreds, and faster
            self.document.answer(call.method, call.path, reply.status, sent)
        return reply

    def _answer(self, route: str, call: Call, body: dict[str, Any]) -> Reply:
        token = call.headers["Authorization"]
        if token != f"Bearer {self.secrets[0]}":
            return self._no(401, "Unauthorized", f"bad key {token}")
        if self.trouble is not None:
            status, title, detail = TROUBLES[self.trouble]
            return self._no(status, title, f"{detail} [{token}]")
        if call.path.startswith("/v2/pods/"):
            machine = self.machines.get(call.path.split("/")[3])
            if machine is None or machine.power == "gone":
                return self._no(404, "Not Found", "pod not found")
            return self._on(route, machine)
        handler = getattr(self, f"_{route}")
        reply = handler(body, call.query) if route != "keys" else self._keys(call.method, body)
        return reply if isinstance(reply, Reply) else Reply(reply)

    def _no(self, status: int, title: str, detail: str) -> Reply:
        return Reply({"title": title, "status": status, "detail": detail}, status)

    def _on(self, route: str, machine: Machine) -> Reply:
        if route == "release":
            machine.power = "gone"
            return Reply(None, 204)
        if route in ("start", "stop"):
            if route not in ACTIONS[STATES.get(machine.power, "ERROR")]:
                return self._no(409, "Conflict", f"cannot {route} now")
            if route == "start" and "no_capacity" in self.habits:
                return self._no(400, "Bad Request", "not enough free GPUs on the host machine")
            if route == "start" and "zero_gpus" in self.habits:
                self.cardless.add(machine.id)
            (self.switch_on if route == "start" else self.switch_off)(machine)
        return Reply(self._pod(machine))

    def _pod(self, machine: Machine) -> dict[str, Any]:
        state = "TERMINATED" if self.terminated else STATES.get(machine.power, "ERROR")
        is_on = state == "RUNNING"
        is_off = state in ("EXITED", "TERMINATED") and "costs_off" not in self.habits
        disk, volume = machine.asked.get("disk", 30), {"size": 50, "path": "/workspace"}
        direct = {"host": "127.0.0.1", "port": machine.port, "username": "root", "command": "ssh"}
        at = datetime.fromtimestamp(machine.created_s, tz=timezone.utc).isoformat()
        cost = 0.0 if is_off else float(self.price) * machine.count
        pod = {
            "id": machine.id,
            "name": machine.tag,
            "status": state,
            "actions": ACTIONS[state],
            "image": "runpod/pytorch",
            "args": "",
            "disk": disk,
            "mounts": machine.asked.get("mounts", {"persistent": volume}),
            "ports": ["22/tcp"],
            "env": {},
            "registry": None,
            "cloud": "SECURE",
            "dataCenterId": "US-KS-2",
            "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": direct if is_on else None},
            "template": None,
            "cost": cost,
            "locked": False,
            "runtime": {"uptime": 1} if is_on else None,
            "createdAt": at,
            "startedAt": None,
            "globalNetworking": {"enabled": False},
        }
        if machine.id not in self.cardless:
            pod["gpu"] = {"id": machine.gpu, "count": machine.count}
        return pod

    def _list(self, body: dict[str, Any], query: dict[str, str]) -> Any:
        del body, query
        pods = [self._pod(m) for m in self.machines.values() if m.power != "gone"]
        return {"pods": pods}

    def _create(self, body: dict[str, Any], query: dict[str, str]) -> Any:
        del query
        if "no_capacity" in self.habits:
            return self._no(500, "Internal Server Error", SOLD_OUT)
        machine = self.make(body["name"], body["gpu"]["id"], body["gpu"]["count"], body)
        return Reply(self._pod(machine), 201)

    def _keys(self, method: str, body: dict[str, Any]) -> Reply:
        if method == "PUT":
            self.keys = list(body["keys"])  # the trap: all of them
        return Reply({"keys": self.keys})

    def _offers(self, body: dict[str, Any], query: dict[str, str]) -> Any:
        del body
        assert query["product"] == "POD", "required with include=AVAILABILITY"
        level = "NONE" if "sold_out" in self.habits else "HIGH"
        cards = [
            {
                "id": name,
                "name": name.removeprefix("NVIDIA "),
                "pool": None,
                "manufacturer": "NVIDIA",
                "memory": memory,
                "secure": True,
                "community": False,
                "price": {"secure": float(self.price), "community": 0.0},
                "maxCount": {"secure": 8, "community": 0},
                "availability": level,
            }
            for name, memory in CARDS.items()
        ]
        return {"gpus": cards}

    def _bill(self, body: dict[str, Any], query: dict[str, str]) -> Any:
        del body
        window = {"startTime": "2026-11-01T00:00:00Z", "endTime": "2026-11-01T01:00:00Z"}
        amounts = {"totalAmount": 2.02, "gpuAmount": 2.0, "cpuAmount": 0.0, "diskAmount": 0.02}
        records = [{"podId": query["podId"], **window, **amounts}] * 2
        asked = {**window, "bucketSize": query["bucketSize"], "podId": query["podId"]}
        metadata = {"query": asked, "recordCount": 2, "uniquePodCount": 1, "totals": amounts}
        return {"records": records, "metadata": metadata}

    def _graphql(self, route: str, body: dict[str, Any]) -> Reply:
        if self.trouble is not None:
            return Reply({"errors": [{"message": TROUBLES[self.trouble][2]}]})
        if route == "balance":
            return Reply({"data": {"myself": {"clientBalance": 12.5}}})
        self.deployed = body["variables"]["input"]
        if "no_capacity" in self.habits:
            return Reply({"errors": [{"message": SOLD_OUT}], "data": None})
        asked = self.deployed
        machine = self.make(asked["name"], asked["gpuTypeId"], asked["gpuCount"], {})
        return Reply({"data": {"podFindAndDeployOnDemand": {"id": machine.id}}})
