"""DingTalk custom robots (钉钉自定义机器人), signed.

https://open.dingtalk.com/document/robots/customize-robot-security-settings
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costguard.notify.base import Undelivered
from costguard.notify.webhook import post, require_zero

if TYPE_CHECKING:
    from costguard.notify.base import Message

TOO_OFTEN = 130101  # more than 20 messages a minute: shut for ten minutes
TOO_OFTEN_WAIT_S = 600


@dataclass(frozen=True)
class DingTalk:
    """A robot by its webhook address, token included; `secret` where signing is switched on."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    max_bytes: int = 15_000

    def send(self, message: Message, now_ms: int) -> None:
        """As a text message; the body's errcode says whether it was taken."""
        query = None
        if self.secret is not None:
            query = {"timestamp": str(now_ms), "sign": signature(self.secret, now_ms)}
        text = f"{message.title}\n{message.text}"
        body = {"msgtype": "text", "text": {"content": text}}
        answer = post(self.url, body, query, (self.secret or "",))
        if answer.get("errcode") == TOO_OFTEN:
            raise Undelivered(f"HTTP 200 with errcode {TOO_OFTEN}", TOO_OFTEN_WAIT_S)
        require_zero(answer, "errcode", "errmsg")


def signature(secret: str, now_ms: int) -> str:
    """HMAC-SHA256 of `timestamp newline secret` under the secret, in Base64."""
    text = f"{now_ms}\n{secret}".encode()
    return base64.b64encode(hmac.new(secret.encode(), text, hashlib.sha256).digest()).decode()
