"""ServerChan (Server酱), Turbo and ³: https://sct.ftqq.com and https://doc.sc3.ft07.com."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costguard.notify.webhook import post, require_zero

if TYPE_CHECKING:
    from costguard.notify.base import Message

TITLE_MAX = 32
_NEWER_KEY = re.compile(r"sctp(\d+)t\w+")


@dataclass(frozen=True)
class ServerChan:
    """An account by its SendKey, or by the whole address that the SendKey page shows."""

    key: str = field(repr=False)
    max_bytes: int = 15_000

    def send(self, message: Message, now_ms: int) -> None:  # noqa: ARG002  (nothing is signed)
        """As a title and a text; the body's code says whether it was taken."""
        body = {"title": message.title[:TITLE_MAX], "desp": _lines(message)}
        require_zero(post(self._url, body, None, (self.key,)), "code", "message")

    @property
    def _url(self) -> str:
        if "://" in self.key:
            return self.key
        newer = _NEWER_KEY.fullmatch(self.key)
        if newer:
            return f"https://{newer[1]}.push.ft07.com/send/{self.key}.send"
        return f"https://sctapi.ftqq.com/{self.key}.send"


def _lines(message: Message) -> str:
    """The text as Markdown, in which a line ends only at an empty one."""
    whole = message.text if len(message.title) <= TITLE_MAX else f"{message.title}\n{message.text}"
    return "\n\n".join(whole.splitlines())
