"""`notify test`: a message through each channel, and what the channel itself said of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from costguard import paths
from costguard.cli.reading import print_json
from costguard.cli.text import print_lines
from costguard.errors import EXIT_INTERNAL, EXIT_USAGE, UserError, in_a_sentence
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from costguard.settings import Settings


def test_channels(only: str | None, *, as_json: bool) -> int:
    """Send a test message through every channel or one; exit code 1 unless each of them took it."""
    from costguard.settings import load_settings

    settings = load_settings()
    names = [*settings.notify.channels]
    if not names:
        what = _("no channel is configured")
        hint = _('add a table such as [notify.channels.phone] with kind = "wecom"')
        raise UserError("no_channel", what, str(paths.config_path()), hint, EXIT_USAGE)
    if only is not None and only not in names:
        what = _("there is no channel {name}").format(name=repr(only))
        hint = ", ".join(names)
        raise UserError("no_channel", what, str(paths.config_path()), hint, EXIT_USAGE)
    results = [_try(settings, name) for name in names if only in (None, name)]
    if as_json:
        print_json({"schema": "costguard.notify_test/1", "channels": results})
    else:
        print_lines(
            [
                _("{name}: taken").format(name=each["channel"])
                if each["ok"]
                else _("{name}: NOT taken: {why}").format(
                    name=each["channel"], why=retell(each["error"])
                )
                for each in results
            ]
        )
    return 0 if all(each["ok"] for each in results) else EXIT_INTERNAL


def _try(settings: Settings, name: str) -> dict[str, Any]:
    from costguard.notify import texts
    from costguard.notify.base import Message, Undelivered
    from costguard.notify.channels import open_channel

    error: str | None = None
    try:
        channel = open_channel(settings, name)
        words = texts.translator(channel.lang)
        message = Message(texts.title(["test"], False, words), texts.line("test", {}, words))
        channel.sender.send(message, time.time_ns() // 1_000_000)
    except (Undelivered, UserError) as caught:
        error = in_a_sentence(caught)
    return {
        "channel": name,
        "kind": settings.notify.channels[name].kind,
        "ok": error is None,
        "error": error,
    }
