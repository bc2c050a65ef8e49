from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from costguard.cli.main import main
from tests.notify.conftest import KEY, Webhook, hook

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["hook"]  # the webhook at the wire, for the fixtures of this module


@pytest.fixture
def channels(home: Path, hook: Webhook) -> Webhook:
    """Two channels that lead to the same webhook."""
    (home / "config.toml").write_text(
        '[notify.channels.phone]\nkind = "wecom"\n'
        '[notify.channels.team]\nkind = "feishu"\nlang = "en"\n',
        encoding="utf-8",
    )
    for name in ("phone.url", "team.url"):
        (home / name).write_text(hook.url)
        (home / name).chmod(0o600)
    return hook


def test_a_message_goes_through_each_channel(
    channels: Webhook, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in its own language; the exit code is 0 only if all of them took it."""
    assert main(["notify", "test"]) == 0
    assert capsys.readouterr().out == "phone: taken\nteam: taken\n"
    assert "测试" in channels.texts[0]
    assert "a test: messages reach this channel" in channels.texts[1]


def test_an_error_inside_of_http_200_is_told(
    channels: Webhook, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the channel's own words, and without its key."""
    channels.says(errcode=93000, errmsg=f"invalid key {KEY}", code=0)
    assert main(["notify", "test"]) == 1
    said = capsys.readouterr()
    assert said.out == (
        "phone: NOT taken: HTTP 200 with errcode 93000: invalid key ***\nteam: taken\n"
    )
    assert KEY not in said.out + said.err


def test_one_channel_can_be_tried_alone(
    channels: Webhook, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one document, too."""
    assert main(["notify", "test", "team", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document == {
        "schema": "costguard.notify_test/1",
        "channels": [{"channel": "team", "kind": "feishu", "ok": True, "error": None}],
    }
    assert len(channels.requests) == 1


def test_a_channel_without_an_address_is_told_and_the_others_are_tried(
    channels: Webhook, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing, and where it belongs."""
    (home / "phone.url").unlink()
    assert main(["notify", "test"]) == 1
    said = capsys.readouterr().out
    assert "the channel 'phone' has no address" in said
    assert "team: taken" in said
    assert len(channels.requests) == 1


def test_an_address_that_others_may_read_is_refused(
    channels: Webhook, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a secret."""
    (home / "phone.url").chmod(0o644)
    assert main(["notify", "test", "phone"]) == 1
    assert "other accounts may read this secret" in capsys.readouterr().out
    assert channels.requests == []


def test_a_home_without_channels_says_how_to_get_one(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that is not there is named, with those that are."""
    assert main(["notify", "test"]) == 2
    assert "[notify.channels.phone]" in capsys.readouterr().err
    (home / "config.toml").write_text('[notify.channels.team]\nkind = "feishu"\n')
    assert main(["notify", "test", "phone"]) == 2
    assert "there is no channel 'phone'" in capsys.readouterr().err
