"""AutoDL 容器实例 Pro on the wire, with its traps."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply

API = "/api/v1/dev/instance/pro/"
ROUTES = {
    "list": "list",
    "status": "read",
    "snapshot": "snapshot",
    "create": "create",
    "power_on": "start",
    "power_off": "stop",
    "release": "release",
    "image/private/list": "images",
}
STATES = {
    "starting": "starting",
    "running": "running",
    "stopping": "shutting_down",
    "stopped": "shutdown",
}
NO_STOCK = "当前算力规格暂无库存, 请修改配置或稍等再试"
TROUBLES = {
    "wrong": ("AuthorizeFailed", "登录超时"),
    "expired": ("AuthorizeFailed", "token 已过期"),
    "unverified": ("TORealName", "请先实名认证"),
    "arrears": ("InternalError", "账户余额不足"),
    "region": ("RequestParameterIsWrong", "参数错误"),
}


class FakeAutoDl(FakePlatform):
    """The platform behind `https://api.autodl.com`."""

    routes = ("list", "read", "create", "start", "stop", "release")

    def new_id(self, number: int) -> str:
        """As in the platform's examples."""
        return f"pro-{number}"

    def gpu_id(self) -> str:
        """The platform's id of the card that the tests rent."""
        return "v-48g-350w"

    def route_of(self, call: Call) -> str:
        """By the path."""
        if call.path.endswith("/wallet/balance"):
            return "balance"
        return ROUTES[call.path.removeprefix(API)]

    def answer(self, route: str, call: Call) -> Reply:
        """One call; a failure is told in `code`, with status 200."""
        token = call.headers["Authorization"]
        if token != self.secrets[0]:
            return self._no("AuthorizeFailed", f"bad token {token}")
        if self.trouble is not None:
            code, message = TROUBLES[self.trouble]
            return self._no(code, f"{message} [{token}]")
        if route in ("read", "snapshot"):
            if call.method != "GET":
                return Reply({}, 404)
            if call.text:  # the page shows a body; the platform wants none
                return self._no("RequestParameterIsWrong", "参数错误")
            asked: dict[str, Any] = dict(call.query)
        else:
            assert (call.method, call.query) == ("POST", {})
            asked = call.json if call.text else {}
        machine = self.machines.get(str(asked.get("instance_uuid")))
        if "instance_uuid" in asked and (machine is None or machine.power == "gone"):
            return self._no("RecordNotFoundError", "record not found")
        handler = getattr(self, f"_{route}")
        data = handler(machine) if machine is not None else handler(asked)
        return data if isinstance(data, Reply) else self._yes(data)

    def _yes(self, data: Any) -> Reply:
        return Reply({"code": "Success", "data": data, "msg": "", "request_id": "r"})

    def _no(self, code: str, message: str) -> Reply:
        return Reply({"code": code, "data": None, "msg": message, "request_id": "r"})

    def _list(self, asked: dict[str, Any]) -> Any:
        there = [machine for machine in self.machines.values() if machine.power != "gone"]
        size, page = int(asked["page_size"]), int(asked["page_index"])
        items = [self._item(machine) for machine in there[(page - 1) * size : page * size]]
        last = max(-(-len(there) // size), 1)
        return {"list": items, "max_page": last, "result_total": len(there)}

    def _item(self, machine: Machine) -> dict[str, Any]:
        stopped = machine.power == "stopped"
        return {
            "uuid": machine.id,
            "name": machine.tag,
            "status": STATES.get(machine.power, machine.power),
            "charge_type": machine.charge,
            "req_gpu_amount": machine.count,
            "gpu_spec_uuid": machine.gpu,
            "created_at": self._time(machine.created_s),
            "stopped_at": {"Time": self._time(self.now_s), "Valid": stopped},
            "timed_shutdown_at": {
                "Time": self._time(machine.timer_s or 0),
                "Valid": machine.timer_s is not None,
            },
        }

    def _time(self, at_s: int) -> str:
        return datetime.fromtimestamp(at_s, tz=timezone.utc).isoformat()

    def _read(self, machine: Machine) -> Any:
        return STATES.get(machine.power, machine.power)

    def _snapshot(self, machine: Machine) -> Any:
        return {
            "payg_price": int(float(self.price) * 1000) * machine.count,
            "origin_pay_price": 99_000,
            "proxy_host": "127.0.0.1",
            "ssh_port": machine.port,
            "root_password": "boot-word",
            "ssh_command": f"ssh -p {machine.port} root@127.0.0.1",
        }

    def _create(self, asked: dict[str, Any]) -> Any:
        if "no_capacity" in self.habits:
            return self._no("InternalError", NO_STOCK)
        if asked["image_uuid"] == "unknown":
            return self._no("NoSuchWordBefore", "who knows")
        assert 1 <= asked["req_gpu_amount"] <= 4
        assert 0 <= asked["expand_system_disk_by_gb"] <= 500
        name, card, count = (
            asked["instance_name"],
            asked["gpu_spec_uuid"],
            asked["req_gpu_amount"],
        )
        machine = self.make(name, card, count, asked)
        return {"instance_uuid": machine.id} if "dict_id" in self.habits else machine.id

    def _start(self, machine: Machine) -> Any:
        if "no_capacity" in self.habits:
            return self._no("InternalError", NO_STOCK)
        self.switch_on(machine)
        return None

    def _stop(self, machine: Machine) -> Any:
        if machine.power == "running":
            self.switch_off(machine)
        return None  # the trap: while it is starting, this is accepted and lost

    def _release(self, machine: Machine) -> Any:
        if machine.power != "stopped":
            return self._no("RequestParameterIsWrong", "请先关机")
        machine.power = "gone"
        return None

    def _balance(self, asked: dict[str, Any]) -> Any:
        del asked
        return {"assets": 100_000, "blocked_asset": 11_500, "voucher_balance": 0}

    def _images(self, asked: dict[str, Any]) -> Any:
        assert asked["page_index"] == 1
        images = [
            {"image_uuid": "image-a", "image_name": "qwen2.5 trainer", "status": "finished"},
            {"image_uuid": "image-b", "image_name": "comfy", "status": "finished"},
        ]
        return {"list": images, "max_page": 1, "result_total": 2}
