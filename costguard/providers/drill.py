"""The paid drill: what no document promises of a platform, shown on a rented instance.

That its own timer stops the instance while nobody else does, how late it fires, how long a stop
takes to be seen, and that a resume comes up. Who rents the instance, charges it to the books and
gives it back is the caller's business; here it is only watched, armed, started and stopped.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costguard.core.moment import elapsed_ms
from costguard.core.power import Power
from costguard.providers.base import ProviderError
from costguard.providers.checkup import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.core.moment import Moment
    from costguard.providers.base import Account, ProviderFacts

MINUTE_MS = 60_000
START_WITHIN_MS = 20 * MINUTE_MS
STOP_WITHIN_MS = 20 * MINUTE_MS
TIMER_MARGIN_MS = 2 * MINUTE_MS
TIMER_SLACK_MS = 1_000
LOOKS_BEFORE_STOP = 2  # so that whoever meters the instance has seen it on as well
BRISK_MS = 2 * MINUTE_MS  # what a start and a stop take where nothing is slow


@dataclass(slots=True)
class Drill:
    """What a drill showed: findings in order, told as they come, and the milliseconds measured."""

    tell: Callable[[Finding], None]
    findings: list[Finding] = field(default_factory=list)
    start_ms: int | None = None
    timer_late_ms: int | None = None
    stop_ms: int | None = None
    resume_ms: int | None = None
    timer_is_proven: bool = False

    @property
    def is_fine(self) -> bool:
        """Whether nothing went wrong."""
        return all(finding.is_fine for finding in self.findings)

    def add(self, what: str, text: str, *, is_fine: bool) -> bool:
        """Note one finding; whether it is fine."""
        self.findings.append(Finding(what, is_fine, text))
        self.tell(self.findings[-1])
        return is_fine


def timer_after_ms(facts: ProviderFacts) -> int:
    """How far ahead a drill sets the timer: the least that is taken, and some looks more."""
    lead_ms = facts.timer_min_lead_ms or 0
    return lead_ms + min(TIMER_MARGIN_MS, lead_ms + 5 * facts.poll_interval_ms)


def spans_ms(facts: ProviderFacts) -> tuple[int, int]:
    """How long the instance is on in both spans together: as a rule, and at the very most."""
    timer_ms = timer_after_ms(facts) + facts.timer_lateness_ms
    most = 2 * (START_WITHIN_MS + STOP_WITHIN_MS) + timer_ms
    return timer_ms + 2 * BRISK_MS, most


def drill(
    account: Account,
    instance_id: str,
    clock: Callable[[], Moment],
    sleep: Callable[[float], None],
    tell: Callable[[Finding], None],
) -> Drill:
    """What the instance, which is being switched on, shows; it is left as the last step left it.

    1. wait until it runs
    2. arm the timer, read it back, and wait until the platform has stopped it by itself
    3. start it again, find where to log in now, and stop it by a call, twice seen
    """
    result = Drill(tell)
    try:
        _lessons(account, instance_id, result, _Waiting(account, instance_id, clock, sleep))
    except ProviderError as error:
        result.add("drill", f"broken off: {error}", is_fine=False)
    return result


def _lessons(account: Account, instance_id: str, result: Drill, wait: _Waiting) -> None:
    result.start_ms = wait.until(Power.RUNNING, START_WITHIN_MS)
    if not _step(result, "create", "runs", result.start_ms):
        return
    first = account.read(instance_id, wait.clock()).ssh
    if not _timer(account, instance_id, result, wait):
        return
    account.start(instance_id)
    result.resume_ms = wait.until(Power.RUNNING, START_WITHIN_MS)
    if not _step(result, "resume", "runs", result.resume_ms):
        return
    again = account.read(instance_id, wait.clock()).ssh
    moved = "at another address" if again != first else "at the same address"
    result.add("login after a resume", moved if again else "not told", is_fine=again is not None)
    wait.looks(LOOKS_BEFORE_STOP)
    account.stop(instance_id)
    result.stop_ms = wait.until(Power.STOPPED, STOP_WITHIN_MS)
    _step(result, "stop", "seen off", result.stop_ms)
    if result.stop_ms is not None and result.stop_ms > account.facts.stop_latency_ms:
        text = f"slower than assumed: set stop_latency_s = {-(-result.stop_ms // 1_000)}"
        result.add("stop", text, is_fine=False)


def _timer(account: Account, instance_id: str, result: Drill, wait: _Waiting) -> bool:
    facts = account.facts
    at_ms = wait.clock().utc_ms + timer_after_ms(facts)
    back_ms = account.arm_timer(instance_id, at_ms)
    armed = back_ms is not None and at_ms - MINUTE_MS <= back_ms <= at_ms + TIMER_SLACK_MS
    text = f"asked for {at_ms}, reads back {back_ms}"
    if not result.add("timer read back", text, is_fine=armed):
        return False
    within_ms = at_ms - wait.clock().utc_ms + facts.timer_lateness_ms + STOP_WITHIN_MS
    if not _step(result, "timer fires", "seen off", wait.until(Power.STOPPED, within_ms)):
        return False
    result.timer_late_ms = max(wait.clock().utc_ms - (back_ms or at_ms), 0)
    text = f"{result.timer_late_ms} ms after its time, by a look each {wait.poll_s:g} s"
    allowed_ms = facts.timer_lateness_ms + facts.stop_latency_ms
    in_time = result.timer_late_ms <= allowed_ms
    result.timer_is_proven = result.add("timer lateness", text, is_fine=in_time)
    return True


def _step(result: Drill, what: str, seen: str, took_ms: int | None) -> bool:
    """Note a step that was waited for; whether it came in time."""
    text = "not in time" if took_ms is None else f"{seen} after {took_ms // 1_000} s"
    return result.add(what, text, is_fine=took_ms is not None)


class _Waiting:
    """Looks at one instance, at the platform's own pace."""

    def __init__(
        self,
        account: Account,
        instance_id: str,
        clock: Callable[[], Moment],
        sleep: Callable[[float], None],
    ) -> None:
        self._account, self._id, self._sleep = account, instance_id, sleep
        self.clock = clock
        self.poll_s = account.facts.poll_interval_ms / 1_000

    def until(self, power: Power, within_ms: int) -> int | None:
        """Milliseconds until it was seen in that state twice; None if it was not in time."""
        since, seen = self.clock(), 0
        while elapsed_ms(since, self.clock()) <= within_ms:
            with contextlib.suppress(ProviderError):
                read = self._account.read(self._id, self.clock()).read
                seen = seen + 1 if read.power is power else 0
                if seen == 2:
                    return elapsed_ms(since, self.clock())
            self._sleep(self.poll_s)
        return None

    def looks(self, count: int) -> None:
        """Let the time of so many looks go by."""
        self._sleep(count * self.poll_s)
