"""Is this account fit for a night? All that can be asked for free; nothing is changed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.core.money import yuan_screen
from costguard.providers.base import ProviderError
from costguard.providers.clocks import hours_left

if TYPE_CHECKING:
    from collections.abc import Iterator

    from costguard.core.moment import Moment
    from costguard.providers.base import Account, CreateRequest

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
