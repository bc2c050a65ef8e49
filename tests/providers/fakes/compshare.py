"""Compshare on the wire, with its traps."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply

PUBLIC, PRIVATE = "public-planted/+Zm9v", "private-planted/+Zm9v"
ROUTES = {
    "CreateCompShareInstance": "create",
    "StartCompShareInstance": "start",
    "StopCompShareInstance": "stop",
    "TerminateCompShareInstance": "release",
    "UpdateCompShareStopScheduler": "timer",
    "GetCompShareInstancePrice": "price",
    "DescribeAvailableCompShareInstanceTypes": "offers",
    "GetProjectList": "projects",
    "GetBalance": "balance",
    "ListUBillDetail": "bill",
    "DescribeCompShareImages": "images",
    "DescribeCompShareCustomImages": "own_images",
}
STATES = {
    "starting": "Starting",
    "running": "Running",
    "stopping": "Stopping",
    "stopped": "Stopped",
}
TROUBLES = {
    "wrong": (171, "Signature VerifyAC Error"),
    "expired": (172, "the key has expired"),
    "unverified": (226606, "账号未实名认证, 请先实名认证"),
    "arrears": (226601, "实例已欠费, 请前往订单管理支付欠费订单"),
    "region": (230, "Params [Zone] not available"),
}
IMAGES = [
    {
        "CompShareImageId": f"compshareImage-{n}",
        "Name": f"PyTorch 2.{n}",
        "ImageType": "System",
        "Status": "Available",
        "Tags": ["LLM"],
        "Description": f"transformers 4.{n}, Qwen2.5",
    }
    for n in range(130)
]


class FakeCompshare(FakePlatform):
    """The platform behind `https://api.compshare.cn`."""

    secrets = (PUBLIC, PRIVATE)
    routes = ("list", "read", "create", "start", "stop", "release", "timer", "offers", "price")

    def new_id(self, number: int) -> str:
        """As in the platform's examples."""
        return f"uhost-{number}"

    def gpu_id(self) -> str:
        """The platform's name of the card."""
        return "3090"

    def route_of(self, call: Call) -> str:
        """By the action in the form."""
        form = call.form
        if form["Action"] == "DescribeCompShareInstance":
            return "read" if "UHostIds.0" in form else "list"
        return ROUTES[form["Action"]]

    def answer(self, route: str, call: Call) -> Reply:
        """One action; a failure is told in RetCode, with status 200."""
        assert (call.method, call.path, call.query) == ("POST", "/", {}), "keys in a URL are logged"
        form = call.form
        signed = "".join(key + form[key] for key in sorted(form) if key != "Signature") + PRIVATE
        if form["Signature"] != hashlib.sha1(signed.encode()).hexdigest():
            return self._no(171, f"Signature VerifyAC Error for {form['PublicKey']}")
        if self.trouble is not None:
            code, message = TROUBLES[self.trouble]
            return self._no(code, f"{message} [{form['PublicKey']}]")
        if form["Region"] != "cn-wlcb" or form.get("Zone", "cn-wlcb-01") != "cn-wlcb-01":
            return self._no(230, "Params [Region] not available")
        if "UHostId" in form and form["UHostId"] not in self.machines:
            return self._no(8039, "resource not found")
        handler = getattr(self, f"_{route}")
        body: dict[str, Any] | Reply = handler(form)
        if isinstance(body, Reply):
            return body
        return Reply({"Action": form["Action"] + "Response", "RetCode": 0, **body})

    def _no(self, code: int, message: str) -> Reply:
        return Reply({"Action": "", "RetCode": code, "Message": message})

    def _list(self, form: dict[str, str]) -> Any:
        offset, limit = int(form.get("Offset", 0)), int(form.get("Limit", 20))
        assert limit <= 100
        there = [machine for machine in self.machines.values() if machine.power != "gone"]
        if offset > len(there):
            return self._no(230, "Offset is larger than the total")
        page = [self._item(machine) for machine in there[offset : offset + limit]]
        return {"TotalCount": len(there), "UHostSet": page}

    def _read(self, form: dict[str, str]) -> Any:
        machine = self.machines.get(form["UHostIds.0"])
        found = [] if machine is None or machine.power == "gone" else [self._item(machine)]
        return {"TotalCount": len(found), "UHostSet": found}

    def _item(self, machine: Machine) -> dict[str, Any]:
        return {
            "UHostId": machine.id,
            "Name": machine.tag,
            "State": STATES.get(machine.power, machine.power),
            "ChargeType": "Postpay" if machine.charge == "payg" else machine.charge,
            "GpuType": machine.gpu,
            "GPU": machine.count,
            "InstancePrice": float(self.price) * machine.count,
            "CompShareImagePrice": 0,
            "DiskPrice": 0.02,
            "CreateTime": machine.created_s,
            "SchedulerStopTime": machine.timer_s or 0,
            "SshLoginCommand": f"ssh -p {machine.port} root@127.0.0.1",
            "Password": base64.b64encode(b"boot-word").decode(),
            "Zone": "cn-wlcb-01",
        }

    def _create(self, form: dict[str, str]) -> Any:
        if "no_capacity" in self.habits:
            return self._no(226604, "当前资源不足, 请稍后再试")
        assert int(form["Memory"]) % 1024 == 0
        assert int(form["Memory"]) >= 1024, "megabytes, not gigabytes"
        assert form["Disks.0.IsBoot"] == "true"
        charge = form.get("ChargeType", "Month")  # the trap: prepaid unless another is sent
        machine = self.make(form.get("Name", "host"), form["GpuType"], int(form["GPU"]), dict(form))
        machine.charge = "payg" if charge == "Postpay" else charge
        return {"UHostIds": [machine.id], "Warning": []}

    def _start(self, form: dict[str, str]) -> Any:
        machine = self.machines[form["UHostId"]]
        if "no_capacity" in self.habits:
            return self._no(8357, "当前机型已售罄")
        if machine.power != "stopped":
            return self._no(8001, "the state is not Stopped")
        assert form["WithoutGpu"] == "false"
        self.switch_on(machine)
        return {"UHostId": machine.id}

    def _stop(self, form: dict[str, str]) -> Any:
        machine = self.machines[form["UHostId"]]
        if "locked" in self.habits:
            return self._no(8000, "InstanceOperationInProgress")
        if machine.power != "running":
            return self._no(8001, "the state is not Running")
        self.switch_off(machine)
        return {"UHostId": machine.id}

    def _release(self, form: dict[str, str]) -> Any:
        machine = self.machines[form["UHostId"]]
        if machine.power != "stopped":
            return self._no(8001, "the state is not Stopped")
        assert form["ReleaseUDisk"] == "true", "a data disk left over would go on costing"
        machine.power = "gone"
        return {"UHostId": machine.id, "InRecycle": "No"}

    def _timer(self, form: dict[str, str]) -> Any:
        assert "StopTime" not in form, "the SDK's own field is not the documented one"
        if "ProjectId" not in form:
            return self._no(220, "Missing params [ProjectId]")
        at_s = int(form["SchedulerStopTime"])
        if at_s < self.now_s + 300:
            return self._no(230, "SchedulerStopTime is too early")
        if "timer_lost" not in self.habits:
            self.machines[form["UHostId"]].timer_s = at_s
        return {"UHostId": form["UHostId"]}

    def _offers(self, form: dict[str, str]) -> Any:
        del form
        status = "SoldOut" if "sold_out" in self.habits else "Normal"
        sizes = [
            {"Gpu": n, "Collection": [{"Cpu": 16 * n, "Memory": [64 * n, 94 * n]}]} for n in (1, 2)
        ]
        names = {"3090": 24, "4090": 24, "4090_48G": 48, "A100": 80}
        kinds = [
            {
                "Name": name,
                "Zone": "cn-wlcb-01",
                "Status": status,
                "MachineSizes": sizes,
                "GraphicsMemory": {"Value": memory, "Rate": 3},
            }
            for name, memory in names.items()
        ]
        return {"AvailableInstanceTypes": kinds}

    def _price(self, form: dict[str, str]) -> Any:
        price = float(self.price) * int(form["Gpu"])
        kinds = {"Month": 3000.0, "Dynamic": 9.9, "Postpay": price}
        details: list[dict[str, Any]] = [
            {"ChargeType": charge, "Instance": yuan, "SystemDisks": 0, "Disks": 0.02}
            for charge, yuan in kinds.items()
        ]
        if "night" in self.habits:
            night = [
                {**item, "Instance": item["Instance"] / 2, "InstanceDiscountType": 1}
                for item in details
            ]
            return {"PriceDetails": night, "OriginalPriceDetails": details}
        return {"PriceDetails": details, "OriginalPriceDetails": []}

    def _projects(self, form: dict[str, str]) -> Any:
        del form
        projects = [{"ProjectId": "org-b"}, {"ProjectId": "org-a", "IsDefault": True}]
        return {"ProjectSet": projects}

    def _balance(self, form: dict[str, str]) -> Any:
        if "no_balance" in self.habits:
            return self._no(161, "Action [GetBalance] not found")
        return {"AccountInfo": {"AmountAvailable": "88.5", "Amount": "100"}}

    def _bill(self, form: dict[str, str]) -> Any:
        assert form["BillingCycle"].count("-") == 1
        item = {
            "ResourceId": form["ResourceIds.0"],
            "Amount": "15.50",
            "StartTime": self.now_s,
            "EndTime": self.now_s + 3600,
            "ChargeType": "Postpay",
        }
        return {"Items": [item]}

    def _images(self, form: dict[str, str]) -> Any:
        offset, limit = int(form["Offset"]), int(form["Limit"])
        assert limit <= 100
        return {"TotalCount": len(IMAGES), "ImageSet": IMAGES[offset : offset + limit]}

    def _own_images(self, form: dict[str, str]) -> Any:
        del form
        return {"TotalCount": 0, "ImageSet": []}
