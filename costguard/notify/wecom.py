"""WeCom group robots (企业微信群机器人): https://developer.work.weixin.qq.com/document/path/91770."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costguard.notify.base import Undelivered
from costguard.notify.webhook import post, require_zero

if TYPE_CHECKING:
    from costguard.notify.base import Message

TOO_OFTEN = 45009  # more than 20 messages a minute
TOO_OFTEN_WAIT_S = 60


@dataclass(frozen=True)
class WeCom:
    """A robot by its whole webhook address, key included."""

    url: str = field(repr=False)
    max_bytes: int = 2_048

    def send(self, message: Message, now_ms: int) -> None:  # noqa: ARG002  (nothing is signed)
        """As a text message; the body's errcode says whether it was taken."""
        text = f"{message.title}\n{message.text}"
        answer = post(self.url, {"msgtype": "text", "text": {"content": text}})
        if answer.get("errcode") == TOO_OFTEN:
            raise Undelivered(f"HTTP 200 with errcode {TOO_OFTEN}", TOO_OFTEN_WAIT_S)
        require_zero(answer, "errcode", "errmsg")
