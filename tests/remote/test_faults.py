from __future__ import annotations

import functools
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.remote.link import LinkOptions
from tests.agent.harness import lives, wait_until
from tests.remote.ssh_server import new_host_key, public_line
from tests.remote.world import QUICK, World, absolute

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine, Proxy


def test_a_cut_line_is_mended_without_loss_or_repetition(
    any_machine: Machine | OpenSsh, world: World
) -> None:
    """Also when the server itself is restarted; the training never notices."""
    toy = {"steps": 15, "gates": {"5": "one", "10": "two"}}
    daemon = world.run(world.plan(any_machine.target(), absolute(any_machine), toy))
    for count, (step, gate) in enumerate({5: "one", 10: "two"}.items(), start=1):
        daemon.wait_for("progress", step=step)
        any_machine.cut()
        wait_until(functools.partial(daemon.lost, count), "the loss")
        (any_machine.home / "job" / gate).touch()
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [one["step"] for one in daemon.of("progress")] == list(range(1, 16))
    assert daemon.states().count("attached") == 3
    assert daemon.states().count("preparing") == 1
    assert len(daemon.of("started")) == 1


def test_a_line_cut_in_mid_line_costs_nothing(
    machine: Machine, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """At any number of bytes."""
    proxy = make_proxy(machine.port)
    toy = {"steps": 15, "gates": {"5": "go on"}}
    daemon = world.run(world.plan(machine.target(port=proxy.port), absolute(machine), toy))
    daemon.wait_for("progress", step=5)
    for _ in range(2):
        proxy.cut_after = proxy.passed + 1777
        wait_until(lambda: proxy.cut_after is None, "the cut")
    (machine.home / "job" / "go on").touch()
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_connection_reset_in_mid_line_costs_nothing(
    any_machine: Machine | OpenSsh, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """RST instead of an orderly end, in the middle of what was being sent."""
    proxy = make_proxy(any_machine.port)
    proxy.cut_by_reset = True
    toy = {"steps": 15, "gates": {"5": "go on"}}
    plan = world.plan(any_machine.target(port=proxy.port), absolute(any_machine), toy)
    daemon = world.run(plan)
    daemon.wait_for("progress", step=5)
    proxy.cut_after = proxy.passed + 1234
    wait_until(lambda: proxy.cut_after is None, "the reset")
    wait_until(functools.partial(daemon.lost, 1), "the loss")
    (any_machine.home / "job" / "go on").touch()
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(daemon.of("started")) == 1


def test_a_line_of_one_byte_at_a_time_is_given_up_and_costs_nothing(
    machine: Machine, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """Alive by TCP and useless: no whole message in time is silence, and the training goes on.

    Scaled: a byte each 20 ms against a silence of 0.6 s, as a byte a second against 30 s.
    """
    proxy = make_proxy(machine.port)
    toy = {"steps": 15, "gates": {"5": "go on"}}
    plan = world.plan(machine.target(port=proxy.port), absolute(machine), toy)
    daemon = world.run(plan, replace(QUICK, silence_s=0.6, connect_timeout_s=0.5))
    daemon.wait_for("progress", step=5)
    proxy.byte_each_s = 0.02
    wait_until(lambda: daemon.states().count("lost") >= 2, "two tries given up")
    (machine.home / "job" / "go on").touch()
    proxy.byte_each_s = None
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_half_open_line_is_given_up(
    machine: Machine, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """Nothing is closed, nothing comes: after the silence it counts as lost, and is made anew."""
    proxy = make_proxy(machine.port)
    plan = world.plan(machine.target(port=proxy.port), absolute(machine), {"hold_s": 30})
    options = LinkOptions(silence_s=0.6, backoff_first_s=0.05, connect_timeout_s=1)
    daemon = world.run(plan, options)
    daemon.wait_for("progress", step=5)
    proxy.frozen.set()
    lost = daemon.wait_for("link", state="lost")
    assert "nothing heard for 0.6 s" in lost["detail"]
    proxy.frozen.clear()
    wait_until(lambda: daemon.states()[-1] == "attached", "the line's return")


def test_a_changed_host_key_ends_it(machine: Machine, world: World) -> None:
    """Refused for good, with the code; no second attempt, no command."""
    target = machine.target(host_keys=(public_line(new_host_key()),))
    daemon = world.run(world.plan(target, absolute(machine)))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "host_key_changed"
    assert daemon.link.join(0.3) is False  # only the thread for downloads still waits
    assert machine.connections == 1
    assert machine.commands == []


def test_a_host_key_that_changes_under_a_running_job_is_quarantined(
    world: World, openssh: OpenSsh
) -> None:
    """No order and no download goes there any more; the training, and the API's guard, go on."""
    plan = world.plan(openssh.target(), absolute(openssh), {"hold_s": 30, "checkpoint_at": [3]})
    daemon = world.run(plan)
    saved = daemon.wait_for("checkpoint")
    daemon.wait_for("progress", step=5)
    pid = daemon.of("started")[0]["pid"]
    openssh.change_host_key()
    assert daemon.wait_for("link", state="refused")["code"] == "host_key_changed"
    assert daemon.link.send({"t": "stop", "id": "S1", "save": True, "grace_s": 5}) is False
    daemon.link.pull("checkpoint-3", saved["files"])
    pulled = daemon.wait_for("pulled")
    assert (pulled["ok"], pulled["code"]) == (False, "host_key_changed")
    assert not list(plan.pull_to.rglob("*.safetensors"))
    assert lives(pid)


def test_another_daemon_takes_over_once(machine: Machine, world: World) -> None:
    """The first is told and stands back: two do not wrestle for one agent."""
    plan = world.plan(machine.target(), absolute(machine), {"hold_s": 30})
    first = world.run(plan)
    first.wait_for("progress", step=5)
    second = world.run(plan)
    second.wait_for("link", state="attached")
    assert first.wait_for("link", state="refused")["code"] == "replaced"
    second.wait_for("progress", step=5)
    assert second.states().count("lost") == 0


def test_an_agent_that_died_is_started_again(machine: Machine, world: World) -> None:
    """The training goes on, and no record is lost."""
    toy = {"steps": 15, "gates": {"5": "go on"}}
    daemon = world.run(world.plan(machine.target(), absolute(machine), toy))
    daemon.wait_for("progress", step=5)
    os.kill(daemon.of("hello")[0]["pid"], signal.SIGKILL)
    wait_until(lambda: len(daemon.of("hello")) == 2, "the next agent")
    (machine.home / "job" / "go on").touch()
    daemon.wait_for("exit")
    assert len(daemon.of("hello")) == 2
    assert [one["step"] for one in daemon.of("progress")] == list(range(1, 16))
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
