"""Feishu custom bots (飞书自定义机器人), signed.

https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from costguard.notify.base import Undelivered
from costguard.notify.webhook import post, require_zero

if TYPE_CHECKING:
    from costguard.notify.base import Message

TOO_OFTEN = (9499, 11232)  # more than 100 messages a minute, or 5 a second
TOO_OFTEN_WAIT_S = 60


@dataclass(frozen=True)
class Feishu:
    """A bot by its webhook address; `secret` where signing is switched on."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    max_bytes: int = 15_000

    def send(self, message: Message, now_ms: int) -> None:
        """As a text message; the body's code says whether it was taken."""
        text = f"{message.title}\n{message.text}"
        body: dict[str, Any] = {"msg_type": "text", "content": {"text": text}}
        if self.secret is not None:
            now_s = now_ms // 1_000
            body |= {"timestamp": str(now_s), "sign": signature(self.secret, now_s)}
        answer = post(self.url, body, None, (self.secret or "",))
        if answer.get("code") in TOO_OFTEN:
            raise Undelivered(f"HTTP 200 with code {answer['code']}", TOO_OFTEN_WAIT_S)
        require_zero(answer, "code", "msg")


def signature(secret: str, now_s: int) -> str:
    """HMAC-SHA256 of nothing under the key `timestamp newline secret`, in Base64."""
    key = f"{now_s}\n{secret}".encode()
    return base64.b64encode(hmac.new(key, b"", hashlib.sha256).digest()).decode()
