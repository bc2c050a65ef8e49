from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from costguard.core.power import Power
from costguard.core.tariff import ForeignPrice
from costguard.errors import UserError
from costguard.providers.base import Busy, NoCapacity, Refused, Unclear
from costguard.providers.runpod import RunPod
from tests.providers import openapi
from tests.providers.asking import rent
from tests.providers.rigs import NOW, PUBLIC_KEY, TAG, runpod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.fakes.runpod import FakeRunPod
    from tests.providers.rigs import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The adapter and its platform."""
    made = runpod()
    yield made
    made.cloud.close()


def fake(rig: Rig) -> FakeRunPod:
    """The platform."""
    return cast("FakeRunPod", rig.cloud)


def test_requests_and_fake_are_held_against_the_published_document(rig: Rig) -> None:
    """Both ways, in every test here; without the document they go on unchecked."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.account.bill_lines(view.id, NOW.utc_ms, NOW.utc_ms + 3_600_000)
    if openapi.document("runpod-v2.json") is None:
        pytest.skip(f"no document in {openapi.folder()}: nothing was held against it")
    assert fake(rig).document.checked > 8


def test_the_document_would_find_a_wrong_request(rig: Rig) -> None:
    """A check that cannot fail is none."""
    document = fake(rig).document
    if document.document is None:
        pytest.skip(f"no document in {openapi.folder()}")
    with pytest.raises(AssertionError):
        document.request("POST", "/v2/pods", {}, {"name": "x", "image": "y", "gpus": 1})
    with pytest.raises(AssertionError):
        document.request("GET", "/v2/pods", {"page": "1"}, None)
    with pytest.raises(AssertionError):
        document.answer("GET", "/v2/pods", 200, {"pods": [{"id": "x"}]})


def test_other_peoples_keys_outlive_ours(rig: Rig) -> None:
    """The call replaces all keys: theirs are read first, and ours is added once."""
    rent(rig)
    rent(rig, tag=f"{TAG}2")
    assert fake(rig).keys == ["ssh-ed25519 AAAAold somebody@else", PUBLIC_KEY]
    puts = [call for call in rig.cloud.calls if call.method == "PUT"]
    assert len(puts) == 1


def test_keys_that_cannot_be_read_are_not_replaced(rig: Rig) -> None:
    """Nor is anything rented that nobody could log in to."""
    rig.cloud.fail("keys", "500")
    with pytest.raises(Unclear):
        rig.account.create(rig.request(), NOW)
    assert fake(rig).keys == ["ssh-ed25519 AAAAold somebody@else"]
    assert rig.cloud.counts["create"] == 0


def test_a_start_without_a_free_card_is_no_capacity(rig: Rig) -> None:
    """Told in words."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    rig.cloud.habits.add("no_capacity")
    with pytest.raises(NoCapacity):
        rig.account.start(view.id)


def test_a_pod_that_comes_up_without_its_card_is_stopped_again(rig: Rig) -> None:
    """Zero GPUs: for bringing data home, the platform says; it would not train."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    rig.cloud.habits.add("zero_gpus")
    with pytest.raises(NoCapacity, match="without a GPU"):
        rig.account.start(view.id)
    assert rig.cloud.only().power == "stopping"
    rig.cloud.only().power = "running"
    seen = rig.account.read(view.id, NOW)
    assert (seen.gpu_count, seen.read.power) == (0, Power.RUNNING)
    assert seen.unfit is not None


def test_off_and_still_costing_is_not_stopped(rig: Rig) -> None:
    """`cost` must be 0.0 before the meter is believed to stand still."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    rig.cloud.habits.add("costs_off")
    assert rig.account.read(view.id, NOW).read.power is Power.OFF_BILLING
    rig.cloud.habits.clear()
    assert rig.account.read(view.id, NOW).read.power is Power.STOPPED


def test_an_action_out_of_turn_is_busy(rig: Rig) -> None:
    """409: nothing happened; ask again soon."""
    view = rent(rig)
    with pytest.raises(Busy) as busy:
        rig.account.start(view.id)
    assert busy.value.retry_after_s == 5


def test_work_goes_onto_a_volume_that_outlives_a_stop(rig: Rig) -> None:
    """The container's own disk is erased by it."""
    view = rent(rig, system_disk_gb=40, data_disk_gb=100)
    asked = rig.cloud.only().asked
    assert asked["disk"] == 40
    assert asked["mounts"] == {"persistent": {"size": 100, "path": "/workspace"}}
    assert asked["ports"] == ["22/tcp"]
    assert asked["startSsh"] is True
    assert view.ssh is not None
    assert view.ssh.work_dir == "/workspace"
    assert view.tariff.paused_micros_per_hour == 200_000  # twice the gigabytes of the usual


def test_a_fixed_deadline_is_set_at_create_and_called_fixed(rig: Rig) -> None:
    """By GraphQL, which alone takes one; it is no lease, and is not read back."""
    own = RunPod(
        {
            "base_url": rig.cloud.url,
            "token": rig.cloud.secrets[0],
            "yuan_per_usd": 7,
            "stop_after_hours": 6,
            "clock": rig.clock,
        }
    )
    assert own.facts.timer_kind == "fixed"
    assert rig.account.facts.timer_kind == "none"
    view = own.create(rig.request(), NOW)
    asked = fake(rig).deployed
    assert asked["stopAfter"] == "2026-11-04T06:00:00Z"
    assert asked["name"] == TAG
    assert view.id == rig.cloud.only().id
    assert own.read(view.id, NOW).read.timer_at_ms is None
    assert own.arm_timer(view.id, NOW.utc_ms + 900_000) is None
    rig.cloud.habits.add("no_capacity")
    with pytest.raises(NoCapacity):
        own.create(rig.request(), NOW)


def test_dollars_become_yuan_at_the_configs_rate_rounded_up(rig: Rig) -> None:
    """The rate is in each tariff, with its day, for the books; without one nothing is opened."""
    dated = RunPod({"token": "t", "yuan_per_usd": "7.3", "yuan_per_usd_date": "2026-11-20"})
    tariff = dated._tariff("2", (30, 50))
    assert tariff.foreign == ForeignPrice("USD", 2_010_959, 7_300_000, 1_000_000, "2026-11-20")
    assert rig.account.facts.currency == "USD"
    assert rig.account.facts.yuan_per_unit_micros == 7_300_000
    assert rig.account.balance_micros() == 91_250_000
    assert rig.account.bill_micros("pod-1") == 2 * 14_746_000
    (line, _) = rig.account.bill_lines("pod-1", NOW.utc_ms, NOW.utc_ms + 3_600_000)
    assert line.micros == 14_746_000
    for wrong in ({}, {"yuan_per_usd": "lots"}, {"yuan_per_usd": 0}):
        settings: dict[str, Any] = {"token": "t", **wrong}
        with pytest.raises(UserError, match="yuan_per_usd"):
            RunPod(settings)


def test_two_sizes_of_a_card_are_a_question(rig: Rig) -> None:
    """An A100 may be either."""
    with pytest.raises(Refused, match="may be any of NVIDIA A100"):
        rig.account.quote("A100")
    assert rig.account.quote("NVIDIA A100 80GB PCIe").gpu == "NVIDIA A100 80GB PCIe"


def test_a_card_without_stock_is_not_asked_for(rig: Rig) -> None:
    """The catalogue says so."""
    rig.cloud.habits.add("sold_out")
    assert {offer.in_stock for offer in rig.account.offers()} == {False}
    with pytest.raises(NoCapacity):
        rig.account.create(rig.request(), NOW)
    assert rig.cloud.counts["create"] == 0


def test_a_pod_that_the_platform_has_terminated_is_released(rig: Rig) -> None:
    """No rent, and no longer listed."""
    view = rent(rig)
    fake(rig).terminated = True
    seen = rig.account.read(view.id, NOW)
    assert seen.read.power is Power.RELEASED
    assert rig.account.list_tagged(TAG, NOW) == ()


def test_a_cloud_that_is_none_is_a_mistake_in_the_config() -> None:
    """What, where, what to do."""
    with pytest.raises(UserError, match="SECURE or COMMUNITY"):
        RunPod({"token": "t", "yuan_per_usd": 7, "cloud": "cheap"})


def test_its_stop_from_inside_uses_the_pods_own_key() -> None:
    """Documented, and not called proven."""
    facts = RunPod({"token": "t", "yuan_per_usd": 7}).facts
    assert facts.in_guest_stop == ("sh", "-c", "runpodctl pod stop $RUNPOD_POD_ID")
    assert not facts.in_guest_stop_proven
