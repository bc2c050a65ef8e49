"""Is this account fit for a night? What can be asked for free, and a drill that costs money.

`examine` asks and never changes anything. `drill` rents, and shows what no document promises: that
the platform's timer stops an instance with no daemon alive, how late, how long a stop takes to be
seen, and that a resume comes up. What it has rented it stops and gives back, whatever happens.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costguard.core.moment import elapsed_ms
from costguard.core.money import yuan_screen
from costguard.core.power import Power
from costguard.providers.base import ProviderError
from costguard.providers.clocks import hours_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from costguard.core.moment import Moment
    from costguard.providers.base import Account, CreateRequest, InstanceView

MINUTE_MS = 60_000
START_WITHIN_MS = 20 * MINUTE_MS
STOP_WITHIN_MS = 20 * MINUTE_MS
TIMER_MARGIN_MS = 2 * MINUTE_MS
TIMER_SLACK_MS = 1_000
CLOCKS_APART_MS = 10_000  # of which one second is the date's own grain, and some the call's
KEYS = {
    "daemon": "our key goes into the create call",
    "password": "the platform tells a password at each start",
    "account": "our key is added to the account's",
    "user": "as the config says",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `is_fine` None: it cannot be told without a drill."""

    what: str
    is_fine: bool | None
    text: str


@dataclass(slots=True)
class Drill:
    """What a drill showed: findings in order, and the milliseconds that it measured."""

    findings: list[Finding] = field(default_factory=list)
    start_ms: int | None = None
    timer_late_ms: int | None = None
    stop_ms: int | None = None
    resume_ms: int | None = None

    @property
    def is_fine(self) -> bool:
        """Whether nothing went wrong."""
        return all(finding.is_fine for finding in self.findings)

    def add(self, what: str, text: str, *, is_fine: bool) -> bool:
        """Note one finding; whether it is fine."""
        self.findings.append(Finding(what, is_fine, text))
        return is_fine


def examine(account: Account, request: CreateRequest, now: Moment) -> list[Finding]:
    """Token, wallet and price by asking; enforcers, keys and clocks by what is known."""
    found: list[Finding] = []
    price: int | None = None
    with _told(found, "token"):
        ours = account.list_tagged("costguard-", now)
        found.append(Finding("token", True, f"accepted; {len(ours)} instances bear our tag"))
    with _told(found, "price"):
        quote = account.price(request)
        price = quote.tariff.price_micros_per_hour
        stock = "in stock" if quote.in_stock else "sold out at the moment"
        text = f"{quote.gpu}: {yuan_screen(price)} an hour, {stock}"
        found.append(Finding("price", quote.in_stock, text))
    with _told(found, "balance"):
        found.append(_wallet(account.balance_micros(), price))
    return [*found, _clock(account.platform_ms(), now), *_known(account)]


def _clock(platform_ms: int | None, now: Moment) -> Finding:
    """Whether the two clocks agree: a timer is set by ours, and fires by theirs."""
    if platform_ms is None:
        return Finding("clock", None, "the platform does not tell its own")
    apart_ms = abs(platform_ms - now.utc_ms)
    text = f"the platform's and ours are {apart_ms // 1_000} s apart"
    if apart_ms > CLOCKS_APART_MS:
        text += ": set ours right (NTP), or stop timers fire at another time"
    return Finding("clock", apart_ms <= CLOCKS_APART_MS, text)


def _wallet(balance_micros: int | None, price: int | None) -> Finding:
    if balance_micros is None:
        return Finding("balance", None, "the platform does not tell it")
    hours = None if price is None else hours_left(balance_micros, price)
    text = yuan_screen(balance_micros)
    if hours is not None:
        text += f", enough for {hours} hours"
    return Finding("balance", balance_micros > 0, text)


def _known(account: Account) -> list[Finding]:
    """What the adapter says of itself, without a call."""
    facts = account.facts
    timer = {
        "lease": "it can be moved and is read back; only a drill shows that it fires",
        "fixed": "set at create alone and never read back: a last resort, not a lease",
        "none": "there is none: the daemon, and a stop from inside, are all there is",
    }[facts.timer_kind]
    inside = "no command is known: name one in in_guest_stop_command"
    if facts.in_guest_stop is not None:
        inside = (
            f"{facts.in_guest_stop[-1]}: {'proven' if facts.in_guest_stop_proven else 'not proven'}"
        )
    found = [
        Finding("stop", facts.can_stop or False, "by a call" if facts.can_stop else "by you alone"),
        Finding("timer", None if facts.timer_kind == "lease" else False, timer),
        Finding("stop from inside", facts.in_guest_stop_proven or None, inside),
        Finding("login", True, KEYS[facts.client_key_source]),
        Finding("host key", None, "not told: first use is believed of instances we started"),
    ]
    if facts.release_after_off_days is not None:
        text = f"off for {facts.release_after_off_days} days, an instance is deleted with its disk"
        found.append(Finding("release clock", True, text))
    if not facts.keeps_tags:
        text = "lists know our instances only while the daemon lives: strays may go unseen"
        found.append(Finding("tags", False, text))
    return found


@contextlib.contextmanager
def _told(found: list[Finding], what: str) -> Iterator[None]:
    """A platform's no is a finding, and the next question is asked all the same."""
    try:
        yield
    except ProviderError as error:
        found.append(Finding(what, False, str(error)))


# ------------------------------------------------------------------------------- the paid drill


def drill(
    account: Account,
    request: CreateRequest,
    clock: Callable[[], Moment],
    sleep: Callable[[float], None],
) -> Drill:
    """Rent, have the platform's timer stop it, resume, stop, give back; with figures.

    1. create and wait until it runs
    2. arm the timer, read it back, and wait until the platform has stopped it by itself
    3. start it again, reach it elsewhere, and stop it by a call, twice seen
    4. give it back, whatever happened before
    """
    result = Drill()
    try:
        made = account.create(request, clock())
    except ProviderError as error:
        result.add("create", str(error), is_fine=False)
        return result
    try:
        _lessons(account, made, result, clock, sleep)
    except ProviderError as error:
        result.add("drill", f"broken off: {error}", is_fine=False)
    finally:
        _give_back(account, made.id, result, clock, sleep)
    return result


def _lessons(
    account: Account,
    made: InstanceView,
    result: Drill,
    clock: Callable[[], Moment],
    sleep: Callable[[float], None],
) -> None:
    wait = _Waiting(account, made.id, clock, sleep)
    result.start_ms = wait.until(Power.RUNNING, START_WITHIN_MS)
    if not _step(result, "create", "runs", result.start_ms):
        return
    first = account.read(made.id, clock()).ssh
    if account.facts.timer_kind == "lease" and not _timer(account, made.id, result, wait):
        return
    if account.facts.timer_kind != "lease":
        account.stop(made.id)
        if not _step(result, "stop", "seen off", wait.until(Power.STOPPED, STOP_WITHIN_MS)):
            return
    account.start(made.id)
    result.resume_ms = wait.until(Power.RUNNING, START_WITHIN_MS)
    if not _step(result, "resume", "runs", result.resume_ms):
        return
    again = account.read(made.id, clock()).ssh
    moved = "at another address" if again != first else "at the same address"
    result.add("login after a resume", moved if again else "not told", is_fine=again is not None)
    account.stop(made.id)
    result.stop_ms = wait.until(Power.STOPPED, STOP_WITHIN_MS)
    _step(result, "stop", "seen off", result.stop_ms)


def _timer(account: Account, instance_id: str, result: Drill, wait: _Waiting) -> bool:
    facts = account.facts
    at_ms = wait.clock().utc_ms + (facts.timer_min_lead_ms or 0) + TIMER_MARGIN_MS
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
    result.add("timer lateness", text, is_fine=result.timer_late_ms <= allowed_ms)
    return True


def _give_back(
    account: Account,
    instance_id: str,
    result: Drill,
    clock: Callable[[], Moment],
    sleep: Callable[[float], None],
) -> None:
    wait = _Waiting(account, instance_id, clock, sleep)
    until = clock().plus_ms(STOP_WITHIN_MS)
    while clock().utc_ms < until.utc_ms:
        with contextlib.suppress(ProviderError):
            if not account.read(instance_id, clock()).read.power.may_charge:
                account.release(instance_id)
                result.add("given back", "with its disk", is_fine=True)
                return
            account.stop(instance_id)
        sleep(wait.poll_s)
    place = account.facts.console_url or "the platform's console"
    text = f"NOT: {instance_id} may still cost money; see {place}"
    result.add("given back", text, is_fine=False)


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
