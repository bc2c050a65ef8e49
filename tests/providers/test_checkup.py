from __future__ import annotations

from typing import Any

import pytest

from costguard.providers.checkup import Finding, examine
from costguard.providers.ssh import SshBox
from tests.providers.asking import every
from tests.providers.rigs import NOW, Rig


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """The last finding of each name."""
    return {finding.what: finding for finding in findings}


@every
def test_what_is_free_to_ask_is_asked_and_nothing_is_changed(rig: Rig) -> None:
    """Token, price, wallet; enforcers as they are known."""
    found = by_name(examine(rig.account, rig.request(), NOW))
    assert found["token"].is_fine
    assert found["price"].is_fine
    assert "an hour" in found["price"].text
    assert (found["balance"].is_fine is None) is not rig.account.facts.tells_balance
    assert found["host key"].is_fine is None
    assert found["clock"].is_fine is (None if rig.name == "local" else True)
    changing = {"create", "start", "stop", "release", "timer"}
    assert not changing & set(rig.cloud.counts)


@pytest.mark.parametrize("rig", ["autodl"], indirect=True)
def test_a_no_is_a_finding_and_the_rest_is_asked_all_the_same(rig: Rig) -> None:
    """A wrong token is told three times, in the platform's own words each."""
    rig.cloud.trouble = "wrong"
    found = by_name(examine(rig.account, rig.request(), NOW))
    assert found["token"].is_fine is False
    assert "token is wrong or expired" in found["token"].text
    assert found["balance"].is_fine is False
    assert "15 days" in found["release clock"].text


@pytest.mark.parametrize("rig", ["compshare", "aws"], indirect=True)
def test_a_clock_that_is_off_is_found(rig: Rig) -> None:
    """A stop timer set by it would fire an hour late."""
    rig.cloud.clock_off_s = -3_600
    clock = by_name(examine(rig.account, rig.request(), NOW))["clock"]
    assert clock.is_fine is False
    assert "3600 s apart" in clock.text


@pytest.mark.parametrize("rig", ["chenyu"], indirect=True)
def test_a_wallet_is_told_in_hours(rig: Rig) -> None:
    """And a platform that keeps no tags is said to be one."""
    found = by_name(examine(rig.account, rig.request(), NOW))
    assert found["balance"].text == "¥88.50, enough for 5.7 hours"
    assert found["tags"].is_fine is False


def test_a_box_without_a_pause_command_is_found_out() -> None:
    """Nobody but a person can stop it, and there is no timer."""
    box = SshBox("box1", {"ssh": "ssh root@127.0.0.1", "price_yuan_per_hour": 15})
    request: Any = Rig("x", None, None).request()  # type: ignore[arg-type]
    found = by_name(examine(box, request, NOW))
    assert found["stop"].is_fine is False
    assert found["timer"].is_fine is False
