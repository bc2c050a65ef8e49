from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from costguard.core.power import Power
from costguard.providers.base import Unclear
from costguard.providers.chenyu import Chenyu
from tests.providers.asking import rent
from tests.providers.rigs import NOW, TAG, chenyu, common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.fakes.chenyu import FakeChenyu
    from tests.providers.rigs import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The adapter and its platform."""
    made = chenyu()
    yield made
    made.cloud.close()


@pytest.fixture
def nameless(rig: Rig) -> Rig:
    """The platform as its page has it: a create call takes no name."""
    cast("FakeChenyu", rig.cloud).foreign_titles = True
    return rig


def test_a_timer_that_was_read_as_minutes_is_not_armed(rig: Rig) -> None:
    """The page contradicts itself; what reads back is far from what was asked for."""
    view = rent(rig)
    at_ms = NOW.utc_ms + 900_000
    assert rig.account.arm_timer(view.id, at_ms) == at_ms
    cast("FakeChenyu", rig.cloud).unit_s = 60
    back = rig.account.arm_timer(view.id, at_ms)
    assert back is not None
    assert abs(back - at_ms) > 86_400_000


def test_the_timer_is_sent_in_unix_seconds(rig: Rig) -> None:
    """As the table of the page says."""
    view = rent(rig)
    rig.account.arm_timer(view.id, NOW.utc_ms + 900_000)
    (sent,) = [call.json for call in rig.cloud.calls if call.path.endswith("shutdown_timer")]
    assert sent["shutdown_time"] == NOW.utc_ms // 1_000 + 900


@pytest.mark.parametrize("after", [False, True])
def test_an_unclear_create_is_found_again_though_it_bears_no_name(
    nameless: Rig, after: bool
) -> None:
    """It was not there before, and has the card and the image that were asked for."""
    nameless.cloud.add("somebody's", asked={"image_uuid": nameless.image})
    nameless.cloud.fail("create", "cut", after=after, times=1)
    with pytest.raises(Unclear):
        nameless.account.create(nameless.request(), NOW)
    found = nameless.account.list_tagged(TAG, NOW)
    assert [view.tag for view in found] == [TAG] * after


def test_what_somebody_else_rents_meanwhile_is_not_taken_for_ours(nameless: Rig) -> None:
    """Another card, or another image."""
    nameless.cloud.fail("create", "cut", times=1)
    with pytest.raises(Unclear):
        nameless.account.create(nameless.request(), NOW)
    nameless.cloud.add("theirs", asked={"image_uuid": "another"})
    nameless.cloud.add("theirs too", asked={"image_uuid": nameless.image}).gpu = "gpu-4090"
    assert nameless.account.list_tagged(TAG, NOW) == ()


def test_what_was_rented_is_known_by_its_id(nameless: Rig) -> None:
    """For as long as this process lives; the facts say that lists forget."""
    view = rent(nameless)
    assert view.tag == TAG
    assert [found.id for found in nameless.account.list_tagged(TAG, NOW)] == [view.id]
    assert not nameless.account.facts.keeps_tags


@pytest.mark.parametrize("status", ["23", "4", "0", "3", "99"])
def test_states_whose_meter_nobody_vouches_for_are_unknown(rig: Rig, status: str) -> None:
    """Stopped abnormally (23) is not stopped."""
    view = rent(rig)
    rig.cloud.only().power = status
    assert rig.account.read(view.id, NOW).read.power is Power.UNKNOWN


def test_a_list_that_minds_no_page_is_unclear_or_read_once(rig: Rig) -> None:
    """The same ten again and again come to an end."""
    for n in range(30):
        rig.cloud.add(f"{TAG}{n}")
    rig.cloud.habits.add("pages_ignored")
    assert len(rig.account.list_tagged(TAG, NOW)) == 10
    assert rig.cloud.counts["list"] == 2


def test_what_is_not_charged_by_use_is_unfit(rig: Rig) -> None:
    """A number without a key: which one is by use, the config says."""
    view = rig.account.read(rig.cloud.add(TAG, charge="month").id, NOW)
    assert view.unfit is not None
    assert view.read.power is Power.OFF_BILLING


def test_where_nobody_says_what_is_by_use_only_our_own_are_fit(nameless: Rig) -> None:
    """What we rent is; of another it is said how to find out. Its power state is as it is told."""
    plain = Chenyu(common(nameless.cloud))
    ours = plain.create(nameless.request(), NOW)
    assert ours.unfit is None
    theirs = plain.read(nameless.cloud.add("theirs").id, NOW)
    assert theirs.unfit is not None
    assert "by_use_charging_type = 0" in theirs.unfit
    assert theirs.read.power is Power.STOPPED


def test_a_card_is_found_by_id_and_by_name(rig: Rig) -> None:
    """`gpu-4090` and `RTX 4090` are one."""
    assert rig.account.quote("gpu-4090").gpu == "NVIDIA RTX 4090"
    assert rig.account.quote("RTX 4090").gpu == "NVIDIA RTX 4090"
    assert [offer.gpu for offer in rig.account.offers(2)] == ["NVIDIA RTX 3090", "NVIDIA RTX 4090"]


def test_a_pod_is_rented_by_its_own_call(rig: Rig) -> None:
    """An image of the application market, marked as such."""
    rent(rig, image="pod:pod-7")
    asked = rig.cloud.only().asked
    assert asked["pod_uuid"] == "pod-7"
    assert "image_uuid" not in asked


def test_a_price_list_that_fails_does_not_hide_the_power_state(rig: Rig) -> None:
    """The last price that was known stays."""
    view = rent(rig)
    rig.cloud.fail("offers", "500")
    again = rig.account.read(view.id, NOW)
    assert again.read.power is Power.RUNNING
    assert again.tariff == view.tariff


def test_cash_and_cards_are_the_balance(rig: Rig) -> None:
    """In yuan, exactly."""
    assert rig.account.balance_micros() == 88_500_000


def test_lines_of_the_bill_are_the_accounts(rig: Rig) -> None:
    """They name no instance, and are never pinned on one."""
    lines = rig.account.bill_lines("i-1", NOW.utc_ms, NOW.utc_ms + 2 * 3_600_000)
    assert len(lines) == 40
    assert {line.instance_id for line in lines} == {""}
    assert lines[0].micros == 500_000
    assert rig.account.bill_micros("i-1") is None


def test_images_of_the_market_are_found_by_words(rig: Rig) -> None:
    """In their remarks too."""
    assert [image.id for image in rig.account.images("qwen2.5")] == ["img-1"]
