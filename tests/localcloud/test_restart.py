from __future__ import annotations

import os
import signal
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.localcloud.world import hide, none_alive, poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.localcloud.world import Client

    StartPlatform = Callable[..., Client]


def test_restart_knows_everything(start_platform: StartPlatform) -> None:
    """After an orderly end: same address, same token, same instance, same bill; it can resume."""
    first = start_platform()
    instance = first.create(tag="mine")
    first.stop(instance["id"])
    before = (first.get(instance["id"]), first.call("GET", "/v1/bill"))
    assert first.running.stop() == 0
    second = start_platform()
    assert (second.running.url, second.running.token) == (first.running.url, first.running.token)
    assert (second.get(instance["id"]), second.call("GET", "/v1/bill")) == before
    second.call("POST", f"/v1/instances/{instance['id']}/start")
    assert second.wait(instance["id"], "running")["boots"] == 2


def test_orderly_end_closes_the_meter(start_platform: StartPlatform) -> None:
    """What ran when the platform ended is stopped, and charged up to that time."""
    first = start_platform()
    instance = first.create()
    first.running.stop()
    shown = start_platform().get(instance["id"])
    assert (shown["status"], shown["charging"]) == ("stopped", False)
    assert shown["charged_until_ms"] >= shown["charged_since_ms"]


def test_killed_platform_bills_until_its_last_process_was_gone(
    start_platform: StartPlatform,
) -> None:
    """After SIGKILL the instances end themselves and note when; the bill ends there, not later."""
    first = start_platform()
    instance = first.create()
    pids = hide(instance)
    alive_at_ms = first.truth()["now_ms"]
    first.running.process.kill()
    first.running.process.wait()
    poll(lambda: none_alive(pids))
    second = start_platform("--price", "RTX 3090=99")
    shown = second.get(instance["id"])
    assert (shown["status"], shown["charging"], shown["ssh"]) == ("stopped", False, None)
    assert alive_at_ms <= shown["charged_until_ms"] < second.truth()["now_ms"]
    (line,) = second.call("GET", "/v1/bill")["lines"]
    charged_ms = shown["charged_until_ms"] - shown["charged_since_ms"]
    assert line["quanta"] == -(-charged_ms // 1_000)
    assert (line["price_yuan_per_hour"], line["ended_at_ms"]) == (
        "15.00",
        shown["charged_until_ms"],
    )
    assert Decimal(line["amount_yuan"]) > 0


def test_survivors_of_both_are_ended_at_the_restart(start_platform: StartPlatform) -> None:
    """Platform and SSH server killed: what bears the marker is found, and charged until then."""
    first = start_platform()
    instance = first.create()
    pids = hide(instance, cleared=False)
    processes = first.truth()["instances"][0]["processes"]
    (sshd,) = [one["pid"] for one in processes if "localcloud.sshd" in one["command"]]
    os.kill(first.running.process.pid, signal.SIGSTOP)  # so that it does not see its instance die
    os.kill(sshd, signal.SIGKILL)
    first.running.process.kill()
    first.running.process.wait()
    assert not none_alive(pids)
    second = start_platform()
    assert none_alive(pids)
    shown = second.get(instance["id"])
    assert (shown["status"], shown["charging"]) == ("stopped", False)
    assert shown["charged_until_ms"] > instance["charged_since_ms"]
