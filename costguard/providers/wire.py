"""The one way to a platform over HTTP: a call is made once, and a secret never leaves through it.

What comes back is an `Answer`, in the platform's own JSON; whether it means yes is the adapter's
to judge. What is no such answer (no connection, a time-out, a gateway's page, 5xx, 429) raises
Unclear: nobody knows whether the call took effect. Nothing is repeated here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import requests

from costguard.providers.base import Unclear
from costguard.providers.declared import ms_option, proxies_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pydantic import SecretStr

    from costguard.providers.base import ProviderError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_MS = 15_000
WHOLE_CALL_S = 45.0  # a server that drips a byte at a time must not hold a pass for ever
BODY_MAX_BYTES = 8 * 1024 * 1024
QUIET_FIRST_S = 2.0
QUIET_MAX_S = 120.0
QUIET_TOLD_MAX_S = 600.0
PAGE_LIMIT = 1_000  # a platform that pages for ever must not hold a pass for ever


@dataclass(frozen=True, slots=True)
class Answer:
    """What a platform said: HTTP status, and the JSON object in its body."""

    status: int
    body: dict[str, Any]
    retry_after_s: float | None = None


def seconds_up() -> float:
    """By the clock that runs through suspend: an answer's date is as old as it really is.

    macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC keeps counting in sleep.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class BackOff:
    """After a 429, calls are held back: as long as is said, else twice as long each time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._until, self._last_s = clock, clock(), 0.0

    def check(self, name: str) -> None:
        """Unclear while calls are held back."""
        left_s = self._until - self._clock()
        if left_s > 0:
            raise Unclear(f"{name}: held back after a 429", left_s)

    def refused(self, name: str, told_s: float | None) -> Unclear:
        """The error for a call that was too many; later ones are held back from now on."""
        self._last_s = min(max(self._last_s * 2, QUIET_FIRST_S), QUIET_MAX_S)
        # One that says a day must not blind us for a day: it is asked again, and says it again.
        wait_s = self._last_s if told_s is None else min(told_s, QUIET_TOLD_MAX_S)
        self._until = self._clock() + wait_s
        return Unclear(f"{name}: 429, too many calls", wait_s)

    def passed(self) -> None:
        """A call went through: the next 429 begins anew."""
        self._last_s = 0.0


class Wire:
    """HTTP to one account. `headers` may hold secrets; `secrets` are cut out of every error.

    After a 429, calls are held back for as long as the platform says, or for twice as long each
    time where it does not say; only urgent ones (stopping) go out all the same.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: Iterable[SecretStr] = (),
        read_timeout_s: float = READ_TIMEOUT_MS / 1_000,
        clock: Callable[[], float] = seconds_up,
        proxies: Mapping[str, str] | None = None,
    ) -> None:
        self._proxies = dict(proxies or {})
        self._base_url = base_url.rstrip("/")
        self._headers = dict(headers or {})
        self._timeout = (CONNECT_TIMEOUT_S, read_timeout_s)
        self._clock = clock
        self._hidden = forms_of([secret.get_secret_value() for secret in secrets])
        self._back_off = BackOff(clock)
        self.dates = Dates(clock)

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        base_url: str,
        secrets: Iterable[SecretStr],
        headers: Mapping[str, str] | None = None,
    ) -> Wire:
        """The wire that an adapter's settings ask for, by default to `base_url`."""
        return cls(
            str(settings.get("base_url", base_url)),
            headers=headers,
            secrets=secrets,
            read_timeout_s=ms_option(settings, "read_timeout_s", READ_TIMEOUT_MS) / 1_000,
            clock=settings.get("clock", seconds_up),
            proxies=proxies_of(settings),
        )

    def __repr__(self) -> str:
        """Where it leads, and nothing of what it carries."""
        return f"Wire({self._base_url!r})"

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        what: str = "",
        urgent: bool = False,
        heard: Iterable[str] = (),
    ) -> Answer:
        """One call; `what` stands for it in errors, where a path would say too little.

        A 5xx that says one of the words in `heard` (in lower case) is an answer all the same:
        some platforms say a clear no that way.
        """
        name = what or f"{method} {path}"
        if not urgent:
            self._back_off.check(name)
        status, headers, content, failed = 0, {}, b"", ""
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy and no .netrc that nobody here chose
                session.proxies.update(self._proxies)
                with session.request(
                    method,
                    self._base_url + path,
                    params=query,
                    json=body,
                    data=form,
                    headers=self._headers,
                    timeout=self._timeout,
                    allow_redirects=False,  # a token is not carried to wherever somebody points
                    stream=True,
                ) as response:
                    status, headers = response.status_code, dict(response.headers)
                    content = self._content(response)
        except (requests.RequestException, OSError) as error:
            failed = type(error).__name__  # its text may hold headers and URLs
        if failed:
            raise Unclear(f"{name}: no answer ({failed})")  # outside: without the request in it
        return self._answer(name, status, headers, content, tuple(heard))

    def redact(self, text: str) -> str:
        """`text` without any secret, however it is written."""
        for form in self._hidden:
            text = text.replace(form, "***")
        return text

    def clean(self, error: ProviderError) -> ProviderError:
        """The same error with every secret cut out of what it says."""
        error.args = tuple(self.redact(str(arg)) for arg in error.args)
        return error

    def _content(self, response: requests.Response) -> bytes:
        until = self._clock() + WHOLE_CALL_S
        content = b""
        for chunk in response.iter_content(65_536):
            content += chunk
            if len(content) > BODY_MAX_BYTES or self._clock() > until:
                raise requests.ReadTimeout("too long an answer")
        return content

    def _answer(
        self,
        name: str,
        status: int,
        headers: Mapping[str, str],
        content: bytes,
        heard: tuple[str, ...],
    ) -> Answer:
        retry_after_s = seconds_of(headers.get("Retry-After", ""))
        self.dates.hear(headers.get("Date", ""))
        if status == requests.codes.too_many_requests:
            raise self._back_off.refused(name, retry_after_s)
        said = content.decode("utf-8", "replace").lower()
        if status // 100 not in (2, 4) and not any(word in said for word in heard):
            raise Unclear(f"{name}: {status}", retry_after_s)
        self._back_off.passed()
        try:
            body = json.loads(content, parse_float=str) if content else {}
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Unclear(f"{name}: {status}, and no answer in the platform's own words")
        return Answer(status, body, retry_after_s)


@contextlib.contextmanager
def understood(what: str) -> Iterator[None]:
    """Unclear, where an answer is not what the platform documents; its values are not shown."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        shown = f" {error}" if isinstance(error, KeyError) else ""
        reason = f"{what}: the answer is not understood ({type(error).__name__}{shown})"
    else:
        return
    unclear = Unclear(reason)
    try:
        raise unclear
    finally:
        unclear.__context__ = None  # what was not understood may be a password in a wrong place


def seconds_of(text: str) -> float | None:
    """What `Retry-After` says; None where it is absent or a date."""
    try:
        return max(float(text), 0.0)
    except ValueError:
        return None  # our own back-off serves


class Dates:
    """A platform's clock: the date of its last answer, counted on since by one that nobody sets."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard: tuple[int, float] | None = None  # UTC ms, and our seconds then

    def hear(self, date: str) -> None:
        """Take the date of an answer; what is none changes nothing."""
        date_ms = ms_of_date(date)
        if date_ms is not None:
            self._heard = date_ms, self._clock()

    def now_ms(self) -> int | None:
        """What it says now (UTC ms, within the second of a date); None: it was never told."""
        if self._heard is None:
            return None
        date_ms, at_s = self._heard
        return date_ms + int((self._clock() - at_s) * 1_000)


def ms_of_date(text: str) -> int | None:
    """UTC ms of an HTTP date; None for what is none."""
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000
    except ValueError:
        return None


def forms_of(values: Iterable[str]) -> tuple[str, ...]:
    """Every way in which a secret may stand in a text, the longest first."""
    found = set()
    for value in values:
        if value:
            coded = base64.b64encode(value.encode()).decode()
            found |= {value, quote(value, safe=""), quote_plus(value), repr(value)[1:-1], coded}
            found.add(json.dumps(value)[1:-1])
    return tuple(sorted(found, key=len, reverse=True))
