"""What a channel is: something that takes a message, or says why it did not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from costguard.errors import CostguardError


class Undelivered(CostguardError):
    """A message was not taken, or it is not known whether it was: it is sent again.

    The text names neither an address nor a secret: it goes into the database and onto screens.
    """

    def __init__(self, why: str, retry_after_s: int | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Message:
    """What one channel gets at once."""

    title: str
    text: str


class Sender(Protocol):
    """One way to a person."""

    @property
    def max_bytes(self) -> int:
        """How long a message's title and text may be together, as UTF-8."""
        ...

    def send(self, message: Message, now_ms: int) -> None:
        """Return when the channel itself has said that it took the message; else Undelivered."""
        ...
