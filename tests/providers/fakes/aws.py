"""AWS: moto's server, which others wrote, with slow transitions, capacity and refusals before it.

Each call goes on to moto as it came, and moto's answer comes back; only the power state in it is
held back until a test says that a transition is complete, and the address follows the boots.
"""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from functools import cache
from typing import Any, cast
from urllib.parse import parse_qsl

import requests

from tests.providers.fakes.platform import Call, FakePlatform, Machine, Reply

os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # thousands, which nobody here rents
ACTIONS = {
    "RunInstances": "create",
    "StartInstances": "start",
    "StopInstances": "stop",
    "TerminateInstances": "release",
    "DescribeImages": "images",
    "RegisterImage": "register",
    "DescribeVolumes": "volumes",
}
STATES = {
    "starting": ("0", "pending"),
    "running": ("16", "running"),
    "stopping": ("64", "stopping"),
    "stopped": ("80", "stopped"),
}
TROUBLES = {
    "wrong": (401, "AuthFailure", "AWS was not able to validate the provided credentials"),
    "expired": (400, "RequestExpired", "Request has expired"),
    "unverified": (400, "PendingVerification", "Your account is being verified"),
    "arrears": (403, "Blocked", "Your account is currently blocked"),
    "region": (400, "InvalidParameterValue", "Invalid availability zone"),
}
KEY_ID, KEY = "AKIAPLANTED0000000", "planted/secret+key/of0AWS"


@cache
def moto_url() -> str:
    """The one moto server of this process; a test tells its instances by what it rented."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def text_of(root: ET.Element, name: str) -> str:
    """The first element of that name, whatever its namespace."""
    return next(str(one.text) for one in root.iter() if one.tag.rpartition("}")[2] == name)


class FakeAws(FakePlatform):
    """What stands before moto."""

    secrets = (KEY_ID, KEY)
    routes = ("list", "read", "create", "start", "stop", "release")

    def __init__(self) -> None:
        super().__init__()
        self.price = "2"
        requests.post(f"{moto_url()}/moto-api/reset", timeout=10).raise_for_status()
        image = self._moto_ec2("RegisterImage", Name="deep learning", RootDeviceName="/dev/sda1")
        self.image = text_of(image, "imageId")

    def new_id(self, number: int) -> str:
        """One that moto has never heard of."""
        return f"i-{number:017x}"

    def gpu_id(self) -> str:
        """The machine that the tests rent."""
        return "g5.xlarge"

    def reach(self, machine: Machine) -> tuple[str, int]:
        """Another address after each start."""
        return f"203.0.113.{machine.boots}", 22

    def add(self, tag: str, power: str = "stopped", **options: Any) -> Machine:
        """A machine that somebody made in the console: moto knows it too."""
        root = self._moto_ec2(
            "RunInstances",
            ImageId=self.image,
            InstanceType=self.gpu_id(),
            MinCount="1",
            MaxCount="1",
            **{
                "TagSpecification.1.ResourceType": "instance",
                "TagSpecification.1.Tag.1.Key": "costguard",
                "TagSpecification.1.Tag.1.Value": tag,
            },
        )
        made = text_of(root, "instanceId")
        if power == "stopped":
            self._moto_ec2("StopInstances", **{"InstanceId.1": made})
        options.pop("asked", None)
        machine = Machine(made, tag, self.gpu_id(), power=power, **options)
        self.machines[made] = machine
        return machine

    def route_of(self, call: Call) -> str:
        """By action, or by the scheduler's path."""
        if call.path.startswith("/schedules/"):
            return "timer"
        action = call.form["Action"]
        if action == "DescribeInstances":
            return "read" if "InstanceId.1" in call.form else "list"
        return ACTIONS[action]

    def answer(self, route: str, call: Call) -> Reply:
        """What moto says, unless there is trouble first."""
        assert KEY not in call.text
        if self.trouble is not None:
            return self._no(*TROUBLES[self.trouble])
        if "no_capacity" in self.habits and route in ("create", "start"):
            return self._no(500, "InsufficientInstanceCapacity", "there is none")
        form = dict(parse_qsl(call.text)) if route != "timer" else {}
        target = self.machines.get(form.get("InstanceId.1", ""))
        is_moving = target is not None and target.power in ("starting", "stopping")
        if is_moving and route in ("start", "stop"):
            return self._no(400, "IncorrectInstanceState", "it is moving")
        if route == "timer" and call.method != "GET" and "timer_lost" in self.habits:
            return Reply({"ScheduleArn": "arn:aws:scheduler:us-east-1:1:schedule/default/x"})
        if route == "timer" and call.method != "GET":
            self._check_schedule(call.json)
            if "too_near" in self.habits:
                return Reply({"Message": "the time is in the past", "Code": "x"}, 400)
        reply = self._forward(call)
        if reply.status // 100 == 2 and route != "timer":
            self._follow(route, form, reply)
            reply.body = self._rewritten(cast("bytes", reply.body))
        return reply

    def failure(self, status: int, headers: dict[str, str]) -> Reply:
        """In AWS's own words."""
        code = "RequestLimitExceeded" if status == 429 else "InternalError"
        reply = self._no(status, code, "try later")
        reply.headers = headers
        return reply

    def _check_schedule(self, body: dict[str, Any]) -> None:
        assert body["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:ec2:stopInstances"
        assert json.loads(body["Target"]["Input"])["InstanceIds"][0] in self.machines
        assert re.fullmatch(r"at\([\d-]+T\d\d:\d\d:00\)", body["ScheduleExpression"])
        assert body["FlexibleTimeWindow"] == {"Mode": "OFF"}

    def _forward(self, call: Call) -> Reply:
        kept = {k: v for k, v in call.headers.items() if k.lower() not in ("host", "connection")}
        answer = requests.request(
            call.method,
            moto_url() + call.path,
            params=call.query,
            data=call.text.encode(),
            headers=kept,
            timeout=10,
        )
        headers = {
            k: v for k, v in answer.headers.items() if k.lower().startswith(("x-amz", "retry"))
        }
        return Reply(answer.content, answer.status_code, headers)

    def _follow(self, route: str, form: dict[str, str], reply: Reply) -> None:
        """Keep our own account of what moto did."""
        machine = self.machines.get(form.get("InstanceId.1", ""))
        if route == "create":
            root = ET.fromstring(cast("bytes", reply.body))
            made = text_of(root, "instanceId")
            tag = next(v for k, v in form.items() if k.endswith("Tag.1.Value"))
            self.machines[made] = Machine(made, tag, form["InstanceType"], asked=form)
        elif machine is not None and route == "start" and machine.power == "stopped":
            self.switch_on(machine)
        elif machine is not None and route == "stop" and machine.power == "running":
            self.switch_off(machine)
        elif machine is not None and route == "release":
            machine.power = "gone"

    def _rewritten(self, body: bytes) -> bytes:
        """Moto's answer, its power states as slow as a test wants them."""
        root = ET.fromstring(body)
        space = root.tag.partition("}")[0] + "}"
        ET.register_namespace("", space.strip("{}"))
        for item in root.iter(f"{space}item"):
            machine = self.machines.get(item.findtext(f"{space}instanceId") or "")
            state = item.find(f"{space}instanceState")
            if machine is None or state is None or machine.power == "gone":
                continue
            code, name = STATES.get(machine.power, ("99", machine.power))
            for part, value in (("code", code), ("name", name)):
                found = state.find(f"{space}{part}")
                assert found is not None
                found.text = value
            address = item.find(f"{space}ipAddress")
            if address is not None:
                address.text = self.reach(machine)[0]
        return ET.tostring(root)

    def _no(self, status: int, code: str, message: str) -> Reply:
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message} {KEY_ID}</Message>"
            "</Error></Errors><RequestID>r</RequestID></Response>"
        )
        return Reply(text.encode(), status)

    def _moto_ec2(self, action: str, **form: str) -> ET.Element:
        headers = {
            "Authorization": "AWS4-HMAC-SHA256 Credential=x/20261104/us-east-1/ec2/aws4_request"
        }
        body = {"Action": action, "Version": "2016-11-15", **form}
        answer = requests.post(moto_url(), data=body, headers=headers, timeout=10)
        answer.raise_for_status()
        return ET.fromstring(answer.content)
