"""晨羽智云 on the wire, with its traps."""

from __future__ import annotations

from typing import Any

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply

API = "/instance/"
ROUTES = {
    "/instance/list": "list",
    "/instance/info": "read",
    "/instance/create_by_image": "create",
    "/instance/create_by_pod": "create",
    "/instance/startup": "start",
    "/instance/shutdown": "stop",
    "/instance/destroy": "release",
    "/instance/shutdown_timer": "timer",
    "/gpu/list": "offers",
    "/balance/info": "balance",
    "/bill/list": "bill",
    "/image/market/list": "images",
}
STATES = {"starting": 24, "running": 2, "stopping": 21, "stopped": 22}
TROUBLES = {
    "wrong": (401, 401, "无效的API Key"),
    "expired": (401, 401, "API Key已过期"),
    "unverified": (200, 1003, "请先完成实名认证"),
    "arrears": (200, 1002, "账户余额不足"),
    "region": (200, 1001, "参数错误"),
}
NO_STOCK = "该GPU型号库存不足"


class FakeChenyu(FakePlatform):
    """The platform behind `https://www.chenyu.cn/api/open/v2`."""

    routes = ("list", "read", "create", "start", "stop", "release", "timer", "offers")

    def __init__(self) -> None:
        super().__init__()
        self.unit_s = 1  # 60: the timer keeps minutes, as the page's notes say
        self.foreign_titles = True  # the trap: a create call takes no name

    def gpu_id(self) -> str:
        """The platform's id of the card."""
        return "gpu-3090"

    def route_of(self, call: Call) -> str:
        """By the path."""
        return ROUTES[call.path]

    def answer(self, route: str, call: Call) -> Reply:
        """One call."""
        token = call.headers["Authorization"]
        if token != f"Bearer {self.secrets[0]}":
            return self._no(401, 401, f"bad key {token}")
        if self.trouble is not None:
            status, code, message = TROUBLES[self.trouble]
            return self._no(status, code, f"{message} [{token}]")
        reads = ("list", "read", "offers", "balance", "bill", "images")
        assert call.method == ("GET" if route in reads else "POST")
        asked: dict[str, Any] = dict(call.query) if route in reads else call.json
        machine = self.machines.get(str(asked.get("instance_uuid")))
        if "instance_uuid" in asked and (machine is None or machine.power == "gone"):
            return self._no(404, 404, "实例不存在")
        handler = getattr(self, f"_{route}")
        data = handler(machine, asked) if machine is not None else handler(asked)
        if isinstance(data, Reply):
            return data
        body = {"code": 0, "msg": "操作成功"}
        return Reply(body if data is None else {**body, "data": data})

    def _no(self, status: int, code: int, message: str) -> Reply:
        return Reply({"code": code, "msg": message}, status)

    def _list(self, asked: dict[str, Any]) -> Any:
        there = [machine for machine in self.machines.values() if machine.power != "gone"]
        if "pages_ignored" in self.habits:
            return {"instance_list": [self._item(m) for m in there[:10]], "total": len(there)}
        size, page = int(asked["page_size"]), int(asked["page"])
        items = [self._item(machine) for machine in there[(page - 1) * size : page * size]]
        return {"instance_list": items, "total": len(there)}

    def _item(self, machine: Machine) -> dict[str, Any]:
        state = STATES.get(machine.power, 99)
        at = 0 if machine.timer_s is None else machine.timer_s
        ssh = {
            "host": "127.0.0.1",
            "port": machine.port,
            "username": "root",
            "password": "boot-word",
        }
        return {
            "instance_uuid": machine.id,
            "status": int(machine.power) if machine.power.isdecimal() else state,
            "title": machine.tag,
            "create_time": machine.created_s,
            "charging_type": 0 if machine.charge == "payg" else 3,
            "shutdown_regular": {"shutdown_time": at, "enable": machine.timer_s is not None},
            "server_map": [{"title": "Jupyter"}, {"title": "SSH", "ssh_info": ssh}],
            "image_uuid": machine.asked.get("image_uuid", ""),
            "gpu_uuid": machine.gpu,
            "gpu_name": "NVIDIA RTX 3090",
            "gpu_nums": machine.count,
        }

    def _read(self, machine: Machine, asked: dict[str, Any]) -> Any:
        del asked
        return self._item(machine)

    def _create(self, asked: dict[str, Any]) -> Any:
        if "no_capacity" in self.habits:
            return self._no(200, 1010, NO_STOCK)
        assert asked["gpu_nums"] in (1, 2, 4, 8)
        title = "PyTorch 实例" if self.foreign_titles else asked["title"]
        return self._item(self.make(title, asked["gpu_uuid"], asked["gpu_nums"], asked))

    def _start(self, machine: Machine, asked: dict[str, Any]) -> Any:
        assert set(asked) == {"instance_uuid"}, "a resume must not switch the card"
        if "no_capacity" in self.habits:
            return self._no(200, 1010, NO_STOCK)
        self.switch_on(machine)
        return None

    def _stop(self, machine: Machine, asked: dict[str, Any]) -> Any:
        del asked
        self.switch_off(machine)
        return None

    def _release(self, machine: Machine, asked: dict[str, Any]) -> Any:
        del asked
        machine.power = "gone"
        return None

    def _timer(self, machine: Machine, asked: dict[str, Any]) -> Any:
        assert asked["enable"] is True
        at_s = int(asked["shutdown_time"])
        if machine.power != "running" or at_s < self.now_s + 300:
            return self._no(200, 1020, "定时关机时间最小为5分钟后")
        if "timer_lost" not in self.habits:
            # The trap: in minutes, the stamp of tonight is a time in the far future.
            machine.timer_s = at_s if self.unit_s == 1 else self.now_s + at_s * self.unit_s
        return None

    def _offers(self, asked: dict[str, Any]) -> Any:
        del asked
        status = 0 if "sold_out" in self.habits else 1
        names = {"gpu-3090": "NVIDIA RTX 3090", "gpu-4090": "NVIDIA RTX 4090"}
        cards = [
            {
                "gpu_name": name,
                "gpu_uuid": uuid,
                "status": status,
                "price": {"hour": float(self.price), "day": 100.0},
            }
            for uuid, name in names.items()
        ]
        return {"gpu_list": cards, "total": len(cards)}

    def _balance(self, asked: dict[str, Any]) -> Any:
        del asked
        return {"balance": 80.25, "card_balance": 8.25}

    def _bill(self, asked: dict[str, Any]) -> Any:
        start = self.now_s + 3600 * int(asked["page"])
        total = 120
        if int(asked["page"]) > 3:
            return {"order_list": [], "total": total}
        lines = [
            {
                "amount": 0.5,
                "settle_start_time": start + n,
                "settle_end_time": start + n + 3600,
                "remark": "GPU实例使用费用",
            }
            for n in range(min(int(asked["page_size"]), 40))
        ]
        return {"order_list": lines, "total": total}

    def _images(self, asked: dict[str, Any]) -> Any:
        del asked
        images = [
            {"image_uuid": "img-1", "image_name": "PyTorch", "remark": "Qwen2.5 ready"},
            {"image_uuid": "img-2", "image_name": "ComfyUI", "remark": ""},
        ]
        return {"image_list": images, "total": 2}
