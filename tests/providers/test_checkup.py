from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.providers.checkup import Finding, drill, examine
from costguard.providers.ssh import SshBox
from tests.providers.asking import every
from tests.providers.rigs import NOW, RIGS, Rig

if TYPE_CHECKING:
    from costguard.core.moment import Moment


class Night:
    """A clock and a sleep; the platform's transitions and timers go on while one sleeps."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.now, self.slept = rig, NOW, 0.0
        self.timers, self.late_s = True, 0

    def clock(self) -> Moment:
        """Now."""
        return self.now

    def sleep(self, s: float) -> None:
        """Let the platform's world go on."""
        self.slept += s
        self.rig.clock.forward(s)
        self.now = self.now.plus_ms(int(s * 1_000))
        cloud = self.rig.cloud
        cloud.settle()
        for machine in cloud.machines.values():
            due_s = machine.timer_s
            if due_s is not None and due_s > 10**11:
                due_s //= 1_000  # the embedded platform keeps milliseconds
            if (
                self.timers
                and due_s is not None
                and ((due_s + self.late_s) * 1_000 <= self.now.utc_ms)
            ):
                cloud.switch_off(machine)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """The last finding of each name."""
    return {finding.what: finding for finding in findings}


@every
def test_what_is_free_to_ask_is_asked_and_nothing_is_changed(rig: Rig) -> None:
    """Token, price, wallet; enforcers as they are known."""
    found = by_name(examine(rig.account, rig.request(), NOW))
    assert found["token"].is_fine
    assert found["price"].is_fine
    assert "an hour" in found["price"].text
    assert (found["balance"].is_fine is None) is not rig.account.facts.tells_balance
    assert found["host key"].is_fine is None
    assert found["clock"].is_fine is (None if rig.name == "local" else True)
    changing = {"create", "start", "stop", "release", "timer"}
    assert not changing & set(rig.cloud.counts)


@pytest.mark.parametrize("rig", ["autodl"], indirect=True)
def test_a_no_is_a_finding_and_the_rest_is_asked_all_the_same(rig: Rig) -> None:
    """A wrong token is told three times, in the platform's own words each."""
    rig.cloud.trouble = "wrong"
    found = by_name(examine(rig.account, rig.request(), NOW))
    assert found["token"].is_fine is False
    assert "token is wrong or expired" in found["token"].text
    assert found["balance"].is_fine is False
    assert "15 days" in found["release clock"].text


@pytest.mark.parametrize("rig", ["compshare", "aws"], indirect=True)
def test_a_clock_that_is_off_is_found(rig: Rig) -> None:
    """A stop timer set by it would fire an hour late."""
    rig.cloud.clock_off_s = -3_600
    clock = by_name(examine(rig.account, rig.request(), NOW))["clock"]
    assert clock.is_fine is False
    assert "3600 s apart" in clock.text


@pytest.mark.parametrize("rig", ["chenyu"], indirect=True)
def test_a_wallet_is_told_in_hours(rig: Rig) -> None:
    """And a platform that keeps no tags is said to be one."""
    found = by_name(examine(rig.account, rig.request(), NOW))
    assert found["balance"].text == "¥88.50, enough for 5.7 hours"
    assert found["tags"].is_fine is False


def test_a_box_without_a_pause_command_is_found_out() -> None:
    """Nobody but a person can stop it, and there is no timer."""
    box = SshBox("box1", {"ssh": "ssh root@127.0.0.1", "price_yuan_per_hour": 15})
    request: Any = Rig("x", None, None).request()  # type: ignore[arg-type]
    found = by_name(examine(box, request, NOW))
    assert found["stop"].is_fine is False
    assert found["timer"].is_fine is False


@pytest.mark.parametrize("rig", [name for name in RIGS if name != "aws"], indirect=True)
def test_a_drill_rents_is_stopped_by_the_timer_resumes_and_gives_back(rig: Rig) -> None:
    """On each platform; nothing of it is left. AWS keeps its schedule where no fake fires it."""
    night = Night(rig)
    shown = drill(rig.account, rig.request(), night.clock, night.sleep)
    assert shown.is_fine, shown.findings
    assert shown.start_ms is not None
    assert shown.stop_ms is not None
    assert shown.resume_ms is not None
    if rig.account.facts.timer_kind == "lease":
        assert shown.timer_late_ms is not None
        assert rig.cloud.counts["stop"] == 1, "the first stop was the platform's own"
    assert {machine.power for machine in rig.cloud.machines.values()} == {"gone"}


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
def test_a_timer_that_does_not_fire_is_found_and_the_instance_given_back(rig: Rig) -> None:
    """What the drill is for."""
    night = Night(rig)
    night.timers = False
    shown = drill(rig.account, rig.request(), night.clock, night.sleep)
    assert not shown.is_fine
    assert by_name(shown.findings)["timer fires"].is_fine is False
    assert by_name(shown.findings)["given back"].is_fine
    assert rig.cloud.only().power == "gone"


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
@pytest.mark.parametrize(("late_s", "is_fine"), [(30, True), (900, False)])
def test_how_late_a_timer_fires_is_measured(rig: Rig, late_s: int, is_fine: bool) -> None:
    """Against what the adapter says of it, which a lease pays for."""
    night = Night(rig)
    night.late_s = late_s
    shown = drill(rig.account, rig.request(), night.clock, night.sleep)
    assert shown.timer_late_ms is not None
    assert late_s * 1_000 <= shown.timer_late_ms < (late_s + 60) * 1_000
    assert by_name(shown.findings)["timer lateness"].is_fine is is_fine
    assert rig.cloud.only().power == "gone"


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
def test_a_timer_that_reads_back_wrong_ends_the_drill_at_once(rig: Rig) -> None:
    """And what was rented goes back."""
    rig.cloud.habits.add("timer_lost")
    night = Night(rig)
    shown = drill(rig.account, rig.request(), night.clock, night.sleep)
    assert by_name(shown.findings)["timer read back"].is_fine is False
    assert rig.cloud.only().power == "gone"
    assert night.slept < 600


@pytest.mark.parametrize("rig", ["autodl"], indirect=True)
def test_what_cannot_be_given_back_is_said_aloud(rig: Rig) -> None:
    """With where to do it by hand."""
    night = Night(rig)
    rig.cloud.fail("release", "500")
    shown = drill(rig.account, rig.request(), night.clock, night.sleep)
    last = shown.findings[-1]
    assert last.is_fine is False
    assert "may still cost money" in last.text
    assert rig.account.facts.console_url in last.text
    assert not rig.account.read(rig.cloud.only().id, NOW).read.power.may_charge


@pytest.mark.parametrize("rig", ["autodl"], indirect=True)
def test_nothing_is_left_of_a_drill_that_could_not_even_begin(rig: Rig) -> None:
    """No capacity: one finding."""
    rig.cloud.habits.add("no_capacity")
    night = Night(rig)
    shown = drill(rig.account, rig.request(), night.clock, night.sleep)
    assert [finding.what for finding in shown.findings] == ["create"]
    assert rig.cloud.machines == {}
