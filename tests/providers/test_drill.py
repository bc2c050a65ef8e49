from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.providers.drill import Drill, drill, spans_ms
from tests.providers.rigs import NOW, Rig

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.providers.checkup import Finding

TIMERS = ("local", "compshare", "chenyu")  # AWS keeps its schedule where no fake fires it


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

    def drill(self) -> Drill:
        """What a drill shows of an instance just rented; every finding was told as it came."""
        told: list[Finding] = []
        made = self.rig.account.create(self.rig.request(), self.now)
        shown = drill(self.rig.account, made.id, self.clock, self.sleep, told.append)
        assert told == shown.findings
        return shown


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """The last finding of each name."""
    return {finding.what: finding for finding in findings}


@pytest.mark.parametrize("rig", TIMERS, indirect=True)
def test_a_drill_is_stopped_by_the_timer_resumes_and_stops(rig: Rig) -> None:
    """On each platform with a timer that can be moved; it is left switched off."""
    night = Night(rig)
    shown = night.drill()
    assert shown.is_fine, shown.findings
    assert shown.timer_is_proven
    assert None not in (shown.start_ms, shown.resume_ms, shown.stop_ms, shown.timer_late_ms)
    assert rig.cloud.counts["stop"] == 1, "the first stop was the platform's own"
    assert not rig.account.read(rig.cloud.only().id, NOW).read.power.may_charge
    usual_ms, most_ms = spans_ms(rig.account.facts)
    assert night.slept * 1_000 <= usual_ms < most_ms


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
def test_a_timer_that_does_not_fire_is_found(rig: Rig) -> None:
    """What the drill is for; whoever rented it is to stop it."""
    night = Night(rig)
    night.timers = False
    shown = night.drill()
    assert not shown.is_fine
    assert not shown.timer_is_proven
    assert by_name(shown.findings)["timer fires"].is_fine is False
    assert shown.resume_ms is None


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
@pytest.mark.parametrize(("late_s", "is_fine"), [(30, True), (900, False)])
def test_how_late_a_timer_fires_is_measured(rig: Rig, late_s: int, is_fine: bool) -> None:
    """Against what the adapter says of it, which a lease pays for."""
    night = Night(rig)
    night.late_s = late_s
    shown = night.drill()
    assert shown.timer_late_ms is not None
    assert late_s * 1_000 <= shown.timer_late_ms < (late_s + 60) * 1_000
    assert by_name(shown.findings)["timer lateness"].is_fine is is_fine
    assert shown.timer_is_proven is is_fine


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
def test_a_timer_that_reads_back_wrong_ends_the_drill_at_once(rig: Rig) -> None:
    """Before anything is waited for."""
    rig.cloud.habits.add("timer_lost")
    night = Night(rig)
    shown = night.drill()
    assert by_name(shown.findings)["timer read back"].is_fine is False
    assert night.slept < 600


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
def test_a_platform_that_refuses_breaks_the_drill_off_in_its_own_words(rig: Rig) -> None:
    """Here it has no card left for the second start."""
    night = Night(rig)
    sleep = night.sleep

    def sold_out(s: float) -> None:
        sleep(s)
        if not rig.account.read(rig.cloud.only().id, NOW).read.power.may_charge:
            rig.cloud.habits.add("no_capacity")

    night.sleep = sold_out  # type: ignore[method-assign]
    shown = night.drill()
    assert shown.timer_is_proven
    assert "broken off" in by_name(shown.findings)["drill"].text


@pytest.mark.parametrize("rig", ["compshare"], indirect=True)
def test_a_stop_slower_than_assumed_is_told_with_what_to_set(rig: Rig) -> None:
    """A lease pays for the time from the stop call to the end of the meter."""
    object.__setattr__(rig.account.facts, "stop_latency_ms", 1)
    shown = Night(rig).drill()
    assert "set stop_latency_s = " in shown.findings[-1].text
    assert not shown.is_fine
