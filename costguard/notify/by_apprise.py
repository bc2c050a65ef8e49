"""Everything else, through Apprise: e-mail, Telegram, ntfy, Bark and many more.

An optional package, loaded when a channel of this kind is opened.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costguard.errors import UserError
from costguard.notify.base import Undelivered

if TYPE_CHECKING:
    from costguard.notify.base import Message

# Apprise takes HTTP 200 for success; these answer so with an error inside.
OURS = {
    "wecombot": "wecom",
    "dingtalk": "dingtalk",
    "feishu": "feishu",
    "lark": "feishu",
    "schan": "serverchan",
}


@dataclass(frozen=True)
class ByApprise:
    """One or more of Apprise's addresses; all of them have to take a message."""

    target: Any
    max_bytes: int = 2_048

    def send(self, message: Message, now_ms: int) -> None:  # noqa: ARG002  (nothing is signed)
        """Undelivered unless every address took it, as far as Apprise can tell."""
        try:
            taken = self.target.notify(title=message.title, body=message.text)
        except Exception as error:  # noqa: BLE001  (a hundred plug-ins: whatever one of them raises)
            raise Undelivered(f"Apprise failed: {type(error).__name__}") from None
        if (
            not taken
        ):  # a bool, or from Apprise 2.3 on a result that is true where all have taken it
            raise Undelivered("Apprise says that it was not delivered")


def by_apprise(text: str) -> ByApprise:
    """A sender for the addresses in `text`, one a line; UserError where one is of no use."""
    try:
        apprise = importlib.import_module("apprise")
    except ImportError:
        what = "this channel needs the package apprise, which is not installed"
        raise UserError("no_apprise", what, "[notify]", "pip install apprise") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it logs addresses
    target = apprise.Apprise()
    for number, line in enumerate(text.split(), start=1):
        ours = OURS.get(line.partition("://")[0].lower())
        where = f"[notify], address {number}"
        if ours is not None:
            what = "Apprise would take an error of this service for success"
            raise UserError("wrong_kind", what, where, f'kind = "{ours}"')
        if not target.add(line):
            what = "Apprise does not understand this address"
            raise UserError("bad_address", what, where, "see https://appriseit.com")
    return ByApprise(target)
