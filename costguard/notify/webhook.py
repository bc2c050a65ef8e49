"""One HTTP call to a webhook, of which nothing secret ever comes out again."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import requests

from costguard.notify.base import Undelivered

if TYPE_CHECKING:
    from collections.abc import Mapping

# At its debug level urllib3 writes each address that it calls, key and all.
logging.getLogger("urllib3").setLevel(logging.INFO)

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 10
ANSWER_WITHIN_S = 20
ANSWER_BYTES_MAX = 65_536
SAID_MAX = 120
KEY_LENGTH_MIN = 12
TOO_MANY = 429


def post(
    url: str,
    body: Mapping[str, Any],
    query: Mapping[str, str] | None = None,
    secrets: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The JSON object that the webhook answers with HTTP 200; Undelivered for everything else.

    A call that timed out or was cut off may have been carried out: it counts as not sent, and
    the message may come twice, which is better than not at all.
    """
    try:
        with requests.post(
            url,
            json=body,
            params=query,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            allow_redirects=False,  # the secret is for this host alone
            stream=True,
        ) as response:
            raw = _read(response)
            status, after = response.status_code, response.headers.get("Retry-After", "")
    except (requests.RequestException, OSError, ValueError) as error:
        raise Undelivered(f"no answer: {type(error).__name__}") from None
    if status != requests.codes.ok:
        wait_s = int(after) if after.isdecimal() else (60 if status == TOO_MANY else None)
        raise Undelivered(f"HTTP {status}", wait_s)
    try:
        answer = json.loads(raw)
    except ValueError:
        raise Undelivered("HTTP 200 without JSON") from None
    if not isinstance(answer, dict):
        raise Undelivered("HTTP 200 with JSON of another kind")
    hidden = (url, *secrets, *_secret_parts(url))
    return {key: redact(value, hidden) for key, value in answer.items()}


def require_zero(answer: Mapping[str, Any], code_key: str, text_key: str) -> None:
    """Undelivered unless the body's own code is the number 0, which alone means that it took it."""
    code = answer.get(code_key)
    if code == 0 and isinstance(code, int) and not isinstance(code, bool):
        return
    said = str(answer.get(text_key, ""))[:SAID_MAX]
    raise Undelivered(f"HTTP 200 with {code_key} {code!r}: {said}")


def redact(value: Any, secrets: tuple[str, ...]) -> Any:
    """`value` without any of the secrets, should a server send one back."""
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, "***") if secret else value
    return value


def _secret_parts(url: str) -> list[str]:
    """What of an address is a key: the values of its query, and the long parts of its path."""
    parts = urlsplit(url)
    values = [value for values in parse_qs(parts.query).values() for value in values]
    return values + [part for part in parts.path.split("/") if len(part) >= KEY_LENGTH_MIN]


def _read(response: requests.Response) -> bytes:
    """The body, if it comes whole, soon, and is no flood."""
    began, raw = time.monotonic(), b""
    for chunk in response.iter_content(1_024):
        raw += chunk
        if len(raw) > ANSWER_BYTES_MAX or time.monotonic() - began > ANSWER_WITHIN_S:
            raise Undelivered("an answer without end")
    return raw
