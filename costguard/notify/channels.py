"""The channels of a home, as its config names them. A new kind is a module and a line in KINDS."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.errors import UserError
from costguard.notify.by_apprise import by_apprise
from costguard.notify.dingtalk import DingTalk
from costguard.notify.feishu import Feishu
from costguard.notify.serverchan import ServerChan
from costguard.notify.wecom import WeCom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from costguard.notify.base import Sender
    from costguard.settings import Settings

log = logging.getLogger("costguard.notify")

KINDS: Mapping[str, Callable[[str, str | None], Sender]] = {
    "wecom": lambda url, _: WeCom(url),
    "dingtalk": DingTalk,
    "feishu": Feishu,
    "serverchan": lambda url, _: ServerChan(url),
    "apprise": lambda url, _: by_apprise(url),
}


@dataclass(frozen=True)
class Channel:
    """One way to a person, and the language that is spoken on it."""

    name: str
    lang: str
    sender: Sender


def open_channel(settings: Settings, name: str) -> Channel:
    """The channel of that name; UserError where it has no address, or one of no use."""
    table = settings.notify.channels[name]
    url = settings.channel_secret(name, "url")
    if url is None:
        raise UserError(
            "no_address",
            f"the channel {name!r} has no address",
            f"[notify.channels.{name}]",
            f"put it alone into {settings.home / (table.url_file or f'{name}.url')}, mode 0600",
        )
    secret = settings.channel_secret(name, "secret")
    sender = KINDS[table.kind](
        url.get_secret_value(), None if secret is None else secret.get_secret_value()
    )
    return Channel(name, table.lang or settings.lang or "zh", sender)


class Channels:
    """The channels of a daemon's home, opened anew when its config has changed."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._opened_for: Settings | None = None
        self._open: list[Channel] = []

    def __call__(self) -> list[Channel]:
        """Every channel that can be opened; what is wrong with the others is logged once."""
        settings = self._settings()
        if settings is not self._opened_for:
            self._opened_for, self._open = settings, []
            for name in settings.notify.channels:
                try:
                    self._open.append(open_channel(settings, name))
                except UserError as error:
                    log.error("%s", error)  # noqa: TRY400  (the sentence helps, not the stack)
        return self._open
