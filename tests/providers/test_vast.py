from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from costguard.core.power import Power
from costguard.providers.base import NoCapacity, Refused, Unclear
from tests.providers import openapi
from tests.providers.asking import rent
from tests.providers.rigs import NOW, PUBLIC_KEY, vast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.fakes.vast import FakeVast
    from tests.providers.rigs import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The adapter and its platform."""
    made = vast()
    yield made
    made.cloud.close()


def fake(rig: Rig) -> FakeVast:
    """The platform."""
    return cast("FakeVast", rig.cloud)


def test_requests_and_fake_are_held_against_the_published_document(rig: Rig) -> None:
    """Both ways, in every test here; without the document they go on unchecked."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.account.bill_micros(view.id)
    if openapi.document("vast.yaml") is None:
        pytest.skip(f"no document in {openapi.folder()}: nothing was held against it")
    assert fake(rig).document.checked > 8


def test_the_document_would_find_a_wrong_request(rig: Rig) -> None:
    """A check that cannot fail is none."""
    document = fake(rig).document
    if document.document is None:
        pytest.skip(f"no document in {openapi.folder()}")
    with pytest.raises(AssertionError):
        document.request("PUT", "/api/v0/instances/1/", {}, {"state": "paused"})
    with pytest.raises(AssertionError):
        document.request("GET", "/api/v1/instances/", {"page": "1"}, None)


@pytest.mark.parametrize("says_so", [False, True], ids=["silent", "told"])
def test_a_start_that_waits_for_its_card_is_no_silent_hope(rig: Rig, says_so: bool) -> None:
    """Told, the queued wish is taken back; silent, it shows as waiting, perhaps for ever."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    rig.cloud.habits |= {"no_capacity"} | ({"says_so"} if says_so else set())
    if says_so:
        with pytest.raises(NoCapacity):
            rig.account.start(view.id)
        rig.cloud.settle()
        assert rig.account.read(view.id, NOW).read.power is Power.STOPPED
        return
    rig.account.start(view.id)
    for _ in range(3):
        rig.cloud.settle()
        waiting = rig.account.read(view.id, NOW)
        assert waiting.waits_for_capacity
        assert waiting.read.power is Power.STARTING
    rig.account.stop(view.id)
    rig.cloud.settle()
    assert not rig.account.read(view.id, NOW).waits_for_capacity


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        ("frozen", Power.OFF_BILLING),
        ("offline", Power.UNKNOWN),
        ("null", Power.STARTING),
        ("gone_off", Power.UNKNOWN),
        ("scheduling", Power.STARTING),
        ("unknown", Power.UNKNOWN),
    ],
)
def test_what_is_and_what_is_meant_to_be_make_the_state_together(
    rig: Rig, power: str, expected: Power
) -> None:
    """Each of these may charge; an exited container that is meant to run has not stopped."""
    view = rent(rig)
    rig.cloud.only().power = power
    read = rig.account.read(view.id, NOW).read
    assert read.power is expected
    assert read.is_charging


def test_each_429_holds_calls_back_for_longer(rig: Rig) -> None:
    """The platform says nothing of how long."""
    rig.cloud.fail("read", "429")
    waits = []
    for _ in range(8):
        rig.clock.forward(1_000)
        with pytest.raises(Unclear) as unclear:
            rig.account.read("1", NOW)
        waits.append(unclear.value.retry_after_s)
    assert waits == [2, 4, 8, 16, 32, 64, 120, 120]


def test_the_cheapest_machine_is_rented(rig: Rig) -> None:
    """Whatever order the market comes in."""
    rent(rig)
    assert rig.cloud.only().asked["ask"] == "101"


def test_a_machine_that_went_to_another_is_no_capacity(rig: Rig) -> None:
    """Between the search and the call."""
    rig.cloud.habits.add("no_capacity")
    with pytest.raises(NoCapacity):
        rig.account.create(rig.request(), NOW)


def test_none_on_the_market_is_told_from_no_such_card_and_no_such_place(rig: Rig) -> None:
    """One is waited out; the others say what there is."""
    rig.cloud.habits.add("sold_out")
    with pytest.raises(NoCapacity):
        rig.account.quote("RTX 3090")
    rig.cloud.habits.clear()
    with pytest.raises(Refused, match="there are: RTX 3090, RTX 4090"):
        rig.account.quote("RTX 9999")
    with pytest.raises(Refused, match="SE, US"):
        rig.account.price(rig.request(region="XX"))


def test_our_key_reaches_the_instance_in_two_ways(rig: Rig) -> None:
    """One that nobody can log in to costs as much as another."""
    rig.cloud.fail("attach", "500", times=1)
    rent(rig)
    assert fake(rig).attached == []
    rig.clock.forward(1_000)
    rent(rig, tag="costguard-2")
    assert fake(rig).attached == [PUBLIC_KEY]
    for machine in rig.cloud.machines.values():
        assert PUBLIC_KEY in machine.asked["onstart"]
        assert machine.asked["cancel_unavail"] is True


def test_one_disk_holds_what_was_asked_for_both(rig: Rig) -> None:
    """Its size can never be changed."""
    rent(rig, system_disk_gb=40, data_disk_gb=100)
    assert rig.cloud.only().asked["disk"] == 140


def test_the_bill_is_the_instances_own_with_disk_and_traffic(rig: Rig) -> None:
    """Found on the second page, among others'."""
    lines = rig.account.bill_lines("7000001", 0, NOW.utc_ms)
    assert [line.what for line in lines] == ["gpu", "disk", "bwd"]
    assert rig.account.bill_micros("7000001") == 14_600_000 + 73_000 + 21_900


def test_the_market_is_offered_card_by_card(rig: Rig) -> None:
    """The cheapest of each."""
    offers = {offer.gpu: offer for offer in rig.account.offers()}
    assert offers["RTX 3090"].tariff.price_micros_per_hour == 14_600_000
    assert offers["RTX 4090"].memory_gib == 24


def test_the_end_of_its_contract_is_told(rig: Rig) -> None:
    """Two days after it, the disk may be gone."""
    view = rent(rig)
    assert view.release_at_ms == NOW.utc_ms + 3 * 86_400_000
