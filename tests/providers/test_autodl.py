from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.core.power import Power
from costguard.errors import UserError
from costguard.providers.autodl import AutoDl
from costguard.providers.base import AccountRefused, NoCapacity, Refused, Unclear
from tests.providers.asking import rent
from tests.providers.rigs import NOW, TAG, autodl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.rigs import Rig

DAY_MS = 86_400_000


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The adapter and its platform."""
    made = autodl()
    yield made
    made.cloud.close()


def test_status_and_details_are_asked_for_by_query_string_alone(rig: Rig) -> None:
    """The page shows a body, with which the platform refuses the call."""
    rent(rig)
    asked = [call for call in rig.cloud.calls if call.path.endswith(("/status", "/snapshot"))]
    assert asked
    assert all(call.method == "GET" and call.query and not call.text for call in asked)


def test_the_token_stands_bare_in_its_header(rig: Rig) -> None:
    """Without "Bearer"."""
    rent(rig)
    assert {call.headers["Authorization"] for call in rig.cloud.calls} == set(rig.cloud.secrets)


def test_thousandths_of_a_yuan_are_read_as_such(rig: Rig) -> None:
    """A price and the balance, less what is blocked."""
    assert rent(rig).tariff.price_micros_per_hour == 15_500_000
    assert rig.account.balance_micros() == 88_500_000


def test_a_stop_while_it_is_starting_is_not_believed(rig: Rig) -> None:
    """The platform says yes and loses it: unclear, with a time after which to ask again."""
    view = rig.account.create(rig.request(), NOW)
    with pytest.raises(Unclear, match="still starting") as unclear:
        rig.account.stop(view.id)
    assert unclear.value.retry_after_s == 5
    rig.cloud.settle()
    assert rig.account.read(view.id, NOW).read.power is Power.RUNNING
    rig.account.stop(view.id)
    assert rig.account.read(view.id, NOW).read.power is Power.STOPPING


def test_a_stop_is_accepted_even_if_nothing_can_be_read_after_it(rig: Rig) -> None:
    """The second look is a courtesy; the proof of a stop is elsewhere."""
    view = rent(rig)
    rig.cloud.fail("read", "500")
    rig.account.stop(view.id)
    assert rig.cloud.only().power == "stopping"


def test_no_stock_is_known_by_its_words_and_other_failures_are_not(rig: Rig) -> None:
    """Both carry the code InternalError."""
    rig.cloud.habits.add("no_capacity")
    with pytest.raises(NoCapacity):
        rig.account.create(rig.request(), NOW)
    rig.cloud.habits.clear()
    rig.cloud.trouble = "arrears"
    with pytest.raises(AccountRefused):
        rig.account.create(rig.request(), NOW)


def test_a_code_that_nobody_knows_is_no_proof_that_nothing_happened(rig: Rig) -> None:
    """The codes are not documented: a list of our tag has to tell."""
    with pytest.raises(Unclear):
        rig.account.create(rig.request(image="unknown"), NOW)


def test_an_id_is_understood_in_both_forms(rig: Rig) -> None:
    """Sources differ on whether the answer is the id or holds it."""
    rig.cloud.habits.add("dict_id")
    assert rent(rig).id == rig.cloud.only().id


def test_a_price_comes_from_the_config_until_the_platform_tells(rig: Rig) -> None:
    """There is no price list; without a price nothing is rented."""
    with pytest.raises(Refused, match="prices_yuan_per_hour"):
        rig.account.quote("RTX 5090")
    assert rig.account.quote("H800").gpu == "h800"
    assert rig.account.quote("RTX 3090 48G").gpu == "v-48g-350w"
    assert {offer.gpu for offer in rig.account.offers()} == {"v-48g-350w", "h800"}
    rig.cloud.price = "16"
    assert rent(rig).tariff.price_micros_per_hour == 16_000_000


def test_prices_that_are_no_table_are_a_mistake_in_the_config() -> None:
    """What, where, what to do."""
    for wrong in ("1.98", {"RTX 4090": "cheap"}, {"RTX 4090": -1}):
        with pytest.raises(UserError, match="no table of prices"):
            AutoDl({"token": "t", "prices_yuan_per_hour": wrong})


def test_the_day_of_its_release_is_told_while_it_is_off(rig: Rig) -> None:
    """15 days after it was switched off, the disk is gone."""
    view = rent(rig)
    assert view.release_at_ms is None
    rig.account.stop(view.id)
    rig.cloud.settle()
    off = rig.account.read(view.id, NOW)
    assert off.release_at_ms == NOW.utc_ms + 15 * DAY_MS
    assert rig.account.facts.release_after_off_days == 15


def test_a_list_that_fails_does_not_hide_that_it_is_off(rig: Rig) -> None:
    """The state is told by a call of its own; the list only adds since when."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    rig.cloud.fail("list", "500")
    off = rig.account.read(view.id, NOW)
    assert (off.read.power, off.tag, off.tariff) == (Power.STOPPED, TAG, view.tariff)
    assert off.release_at_ms is None


def test_a_timer_of_the_console_is_seen_in_lists(rig: Rig) -> None:
    """Only a person can set it."""
    rig.cloud.add(TAG, "running", timer_s=NOW.utc_ms // 1_000 + 3_600)
    (view,) = rig.account.list_tagged(TAG, NOW)
    assert view.read.timer_at_ms == NOW.utc_ms + 3_600_000


def test_a_subscription_is_unfit_and_off_it_still_costs(rig: Rig) -> None:
    """Only what is charged by use can be kept under a cap."""
    machine = rig.cloud.add(TAG, charge="monthly")
    view = rig.account.read(machine.id, NOW)
    assert view.unfit is not None
    assert view.read.power is Power.OFF_BILLING


def test_the_region_and_the_disk_are_asked_for(rig: Rig) -> None:
    """In the platform's own fields."""
    rent(rig, region="west-B", system_disk_gb=50)
    asked = rig.cloud.only().asked
    assert asked["data_center_list"] == ["west-B"]
    assert asked["expand_system_disk_by_gb"] == 50
    assert asked["cuda_v_from"] == 118


def test_images_of_the_account_are_found_by_words(rig: Rig) -> None:
    """Name and state."""
    (image,) = rig.account.images("qwen2.5")
    assert (image.id, image.kind) == ("image-a", "private")


def test_nothing_of_its_power_off_from_inside_is_called_proven(rig: Rig) -> None:
    """A command of the user's is taken, and marked as theirs."""
    assert rig.account.facts.in_guest_stop is None
    own = AutoDl({"token": "t", "in_guest_stop_command": "my-off"}).facts
    assert own.in_guest_stop == ("sh", "-c", "my-off")
    assert not own.in_guest_stop_proven
