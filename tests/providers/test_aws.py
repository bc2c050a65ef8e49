from __future__ import annotations

import base64
import builtins
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.power import Power
from costguard.errors import UserError
from costguard.providers.aws import Aws
from costguard.providers.base import Busy, Refused, Unclear
from costguard.providers.boto import BotoWire
from tests.providers.asking import rent
from tests.providers.rigs import NOW, PUBLIC_KEY, TAG, aws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.rigs import Rig

KEYS = {"access_key_id": "a", "secret_access_key": "b", "yuan_per_usd": 7}


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The adapter, and moto's server behind our trouble-maker."""
    made = aws()
    yield made
    made.cloud.close()


def test_what_is_asked_for_reaches_ec2(rig: Rig) -> None:
    """Our key, a power-off that stops, a token that makes a repeat harmless, one disk."""
    rent(rig, system_disk_gb=40, data_disk_gb=100)
    asked = rig.cloud.only().asked
    assert asked["ClientToken"] == TAG
    assert asked["InstanceInitiatedShutdownBehavior"] == "stop"
    assert asked["BlockDeviceMapping.1.Ebs.VolumeSize"] == "140"
    assert (asked["MinCount"], asked["MaxCount"]) == ("1", "1")
    script = base64.b64decode(asked["UserData"]).decode()
    assert script.startswith("#cloud-config\n")
    assert PUBLIC_KEY in script


def test_the_timer_is_a_schedule_that_is_moved_and_read_back(rig: Rig) -> None:
    """EventBridge keeps whole minutes: the last one before, never one after."""
    view = rent(rig)
    first, second = NOW.utc_ms + 930_000, NOW.utc_ms + 1_800_000
    assert rig.account.arm_timer(view.id, first) == NOW.utc_ms + 900_000
    assert rig.account.arm_timer(view.id, second) == second
    methods = [call.method for call in rig.cloud.calls if call.path.startswith("/schedules/")]
    assert methods == ["PUT", "POST", "GET", "PUT", "GET"]


def test_without_a_role_there_is_no_timer() -> None:
    """And the facts say so."""
    plain = Aws({**KEYS, "prices_usd_per_hour": {}})
    assert plain.facts.timer_kind == "none"
    assert plain.arm_timer("i-1", NOW.utc_ms) is None


def test_disks_of_what_we_rented_are_priced_as_they_are(rig: Rig) -> None:
    """Of what was adopted, as the config says."""
    view = rent(rig, data_disk_gb=200)
    assert view.tariff.price_micros_per_hour == 14_760_002
    assert view.tariff.paused_micros_per_hour == 160_000
    adopted = rig.account.read(rig.cloud.add("theirs").id, NOW)
    assert adopted.tariff.price_micros_per_hour == 14_680_001
    assert adopted.tariff.paused_micros_per_hour == 80_000


def test_a_call_in_the_wrong_state_is_busy(rig: Rig) -> None:
    """Nothing happened; ask again soon."""
    view = rig.account.create(rig.request(), NOW)
    with pytest.raises(Busy):
        rig.account.stop(view.id)


def test_machines_are_found_by_card_and_number(rig: Rig) -> None:
    """Or by their own name; a number of cards that a machine has not is refused."""
    assert rig.account.quote("g5.xlarge").gpu == "g5.xlarge"
    assert rig.account.quote("A10G").gpu == "g5.xlarge"
    with pytest.raises(Refused, match="has 1 cards, not 2"):
        rig.account.price(rig.request(gpu_count=2))
    with pytest.raises(Refused, match="prices_usd_per_hour"):
        rig.account.price(rig.request(gpu="A10G", gpu_count=4))
    (offer,) = rig.account.offers(1)
    assert (offer.gpu, offer.memory_gib, offer.note) == ("g5.xlarge", 24, "A10G")
    assert rig.account.offers(4) == ()


def test_terminated_is_released_and_no_longer_listed(rig: Rig) -> None:
    """AWS tells of it for an hour."""
    view = rent(rig)
    rig.account.release(view.id)
    assert rig.account.read(view.id, NOW).read.power is Power.RELEASED
    assert rig.account.list_tagged(TAG, NOW) == ()


def test_a_page_of_somebody_elses_is_no_yes(rig: Rig) -> None:
    """Well-formed, and naming no instance."""
    view = rent(rig)
    rig.cloud.fail("stop", "html", times=1)
    with pytest.raises(Unclear):
        rig.account.stop(view.id)


def test_images_are_found_by_words(rig: Rig) -> None:
    """Of the account and of Amazon."""
    assert [image.id for image in rig.account.images("deep")] == [rig.image]
    assert rig.account.images("no such words") == ()


def test_neither_balance_nor_bill_is_asked_for(rig: Rig) -> None:
    """One there is not, the other costs money and comes late."""
    assert rig.account.balance_micros() is None
    assert rig.account.bill_micros("i-1") is None
    assert rig.account.bill_lines("i-1", 0, NOW.utc_ms) == ()


def test_without_boto3_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: nobody else needs it."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "boto3":
            raise ImportError(name)
        return real(name, *rest, **options)

    wire = BotoWire(KEYS, "us-east-1")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="boto3") as refused:
        wire.call("ec2", "describe_instances", "aws list", {})
    assert "costguard[aws]" in refused.value.hint
