"""仙宫云 on the wire, with its traps."""

from __future__ import annotations

from typing import Any

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply

STATES = {"starting": "booting", "stopping": "shutting_down", "stopped": "shutdown"}
TROUBLES = {
    "wrong": (1000, "未找到访问令牌"),
    "expired": (1000, "访问令牌已过期"),
    "unverified": (1001, "请先实名认证"),
    "arrears": (1002, "余额不足"),
    "region": (1003, "数据中心不存在"),
}
POSTS = {
    "/open/instance/deploy": "create",
    "/open/instance/boot": "start",
    "/open/instance/shutdown_release_gpu": "stop",
    "/open/instance/shutdown": "keep",
    "/open/instance/destroy": "release",
}
GETS = {"/open/instances": "list", "/open/balance": "balance", "/open/images": "images"}
GIGABYTE = 1_000_000_000


class FakeXiangongyun(FakePlatform):
    """The platform behind `https://api.xiangongyun.com`."""

    routes = ("list", "read", "create", "start", "stop", "release")

    def __init__(self) -> None:
        super().__init__()
        self.kept: set[str] = set()  # off with the GPU kept: charged in full

    def gpu_id(self) -> str:
        """The platform's name of the card that the tests rent."""
        return "NVIDIA GeForce RTX 4090 48G"

    def route_of(self, call: Call) -> str:
        """By method and path."""
        if call.method == "POST":
            return POSTS[call.path]
        return GETS.get(call.path, "read")

    def answer(self, route: str, call: Call) -> Reply:
        """One call."""
        token = call.headers["Authorization"]
        if token != f"Bearer {self.secrets[0]}":
            return self._no(1000, f"未找到访问令牌 {token}")
        if self.trouble is not None:
            code, message = TROUBLES[self.trouble]
            return self._no(code, f"{message} [{token}]")
        asked: dict[str, Any] = call.json if call.method == "POST" else {}
        if route == "read":
            asked = {"id": call.path.rpartition("/")[2]}
        machine = self.machines.get(str(asked.get("id")))
        if "id" in asked and (machine is None or machine.power == "gone"):
            return self._no(1004, "实例不存在")
        handler = getattr(self, f"_{route}")
        data = handler(machine) if machine is not None else handler(asked)
        if isinstance(data, Reply):
            return data
        code = 0 if "code_0" in self.habits else 200  # sources differ; `success` is what counts
        return Reply({"code": code, "msg": "", "success": True, "data": data})

    def _no(self, code: int, message: str) -> Reply:
        return Reply({"code": code, "msg": message, "success": False, "data": None})

    def _list(self, asked: dict[str, Any]) -> Any:
        del asked
        items = [self._read(m) for m in self.machines.values() if m.power != "gone"]
        short = items[:1] if "short_list" in self.habits else items
        return {"list": short, "total": len(items)}

    def _read(self, machine: Machine) -> Any:
        state = STATES.get(machine.power, machine.power)
        is_off = machine.power == "stopped"
        used = 0 if is_off and machine.id not in self.kept else machine.count
        if is_off and "used_stays" in self.habits:
            used = machine.count
        return {
            "id": machine.id,
            "name": machine.tag,
            "status": state,
            "create_timestamp": machine.created_s,
            "gpu_model": machine.gpu,
            "gpu_used": used,
            "gpu_count": machine.count,
            "price_per_hour": None if is_off else float(self.price) * machine.count,
            "system_disk_size": 50 * GIGABYTE,
            "ssh_domain": "127.0.0.1",
            "ssh_port": str(machine.port),
            "ssh_user": "root",
            "password": "boot-word",
        }

    def _create(self, asked: dict[str, Any]) -> Any:
        if "no_capacity" in self.habits:
            return self._no(1005, "可用GPU不足")
        assert asked["data_center_id"] == 1
        machine = self.make(asked["name"], asked["gpu_model"], asked["gpu_count"], asked)
        return {"id": machine.id}

    def _start(self, machine: Machine) -> Any:
        if "no_capacity" in self.habits:
            return self._no(1005, "GPU型号暂时不可用")
        self.kept.discard(machine.id)
        self.switch_on(machine)
        return None

    def _stop(self, machine: Machine) -> Any:
        self.kept.discard(machine.id)
        if machine.power != "stopped":
            self.switch_off(machine)
        return None

    def _keep(self, machine: Machine) -> Any:
        raise AssertionError(f"{machine.id}: this way of shutting down keeps charging")

    def _release(self, machine: Machine) -> Any:
        machine.power = "gone"
        return None

    def _balance(self, asked: dict[str, Any]) -> Any:
        del asked
        return {"balance": -3.5}

    def _images(self, asked: dict[str, Any]) -> Any:
        del asked
        images = [
            {"id": "a", "name": "trainer", "introduction": "qwen2.5"},
            {"id": "b", "name": "other", "introduction": None},
        ]
        return {"list": images, "total": 2}
