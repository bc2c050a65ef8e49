from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from costguard.core.power import Power
from costguard.providers.base import Refused, Unclear
from costguard.providers.xiangongyun import Xiangongyun
from tests.providers.asking import rent
from tests.providers.rigs import NOW, TAG, common, xiangongyun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.fakes.xiangongyun import FakeXiangongyun
    from tests.providers.rigs import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The adapter and its platform."""
    made = xiangongyun()
    yield made
    made.cloud.close()


def test_a_stop_lets_the_gpu_go(rig: Rig) -> None:
    """The other way of shutting down is never called: it keeps charging."""
    view = rent(rig)
    rig.account.stop(view.id)
    assert rig.cloud.counts["stop"] == 1
    assert rig.cloud.counts["keep"] == 0


def test_off_with_the_gpu_kept_is_charged_until_it_is_let_go(rig: Rig) -> None:
    """Somebody shut it down in the console: the state is the same, the meter is not."""
    machine = rig.cloud.add(TAG)
    cast("FakeXiangongyun", rig.cloud).kept.add(machine.id)
    view = rig.account.read(machine.id, NOW)
    assert view.status == "shutdown"
    assert view.read.power is Power.OFF_BILLING
    assert view.read.is_charging
    rig.account.stop(machine.id)
    assert rig.account.read(machine.id, NOW).read.power is Power.STOPPED


def test_after_a_restart_of_ours_a_doubt_is_settled_by_another_stop(rig: Rig) -> None:
    """Whether `gpu_used` falls to 0 is a guess: where it does not, nothing is believed."""
    rig.cloud.habits.add("used_stays")
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    assert rig.account.read(view.id, NOW).read.power is Power.STOPPED
    fresh = Xiangongyun({**common(rig.cloud), "prices_yuan_per_hour": {"RTX 4090 48G": 15}})
    assert fresh.read(view.id, NOW).read.power is Power.OFF_BILLING
    fresh.stop(view.id)
    assert fresh.read(view.id, NOW).read.power is Power.STOPPED


def test_switched_on_by_somebody_it_must_be_let_go_anew(rig: Rig) -> None:
    """What was let go once is not let go for ever."""
    rig.cloud.habits.add("used_stays")
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    rig.cloud.switch_on(rig.cloud.only())
    rig.account.read(view.id, NOW)
    rig.cloud.only().power = "stopped"
    assert rig.account.read(view.id, NOW).read.power is Power.OFF_BILLING


def test_success_is_told_by_success_and_not_by_a_code(rig: Rig) -> None:
    """0 in one source, 200 in another."""
    rent(rig)
    rig.cloud.habits.add("code_0")
    assert len(rig.account.list_tagged(TAG, NOW)) == 1


def test_both_words_for_off_are_understood(rig: Rig) -> None:
    """Sources differ."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.only().power = "stopped"
    assert rig.account.read(view.id, NOW).read.power is Power.STOPPED


@pytest.mark.parametrize("state", ["freeze", "freezing", "saving_image", "error"])
def test_states_whose_meter_nobody_vouches_for_are_unknown(rig: Rig, state: str) -> None:
    """And may charge."""
    view = rent(rig)
    rig.cloud.only().power = state
    assert rig.account.read(view.id, NOW).read.power is Power.UNKNOWN


def test_a_list_that_is_not_whole_is_unclear(rig: Rig) -> None:
    """Should the platform begin to page, none of ours may get lost."""
    rig.cloud.add(TAG)
    rig.cloud.add(TAG)
    rig.cloud.habits.add("short_list")
    with pytest.raises(Unclear):
        rig.account.list_tagged(TAG, NOW)


def test_a_balance_below_zero_is_told(rig: Rig) -> None:
    """Below it the platform deletes instances."""
    assert rig.account.balance_micros() == -3_500_000


def test_our_key_the_disk_and_the_kind_of_image_are_asked_for(rig: Rig) -> None:
    """In the platform's own fields; disks in bytes."""
    rent(rig, image="private:abc", system_disk_gb=80)
    asked = rig.cloud.only().asked
    assert (asked["image"], asked["image_type"]) == ("abc", "private")
    assert asked["system_disk_expand_size"] == 80_000_000_000
    assert asked["ssh_key"].startswith("ssh-ed25519 ")


def test_a_region_that_is_no_number_is_refused(rig: Rig) -> None:
    """With what it should be."""
    with pytest.raises(Refused, match="numbers, such as 1"):
        rig.account.create(rig.request(region="beijing"), NOW)
    assert rig.cloud.counts["create"] == 0


def test_images_and_offers_are_the_accounts_and_the_configs(rig: Rig) -> None:
    """By words; by the prices that were copied."""
    assert [image.id for image in rig.account.images("qwen2.5")] == ["private:a"]
    assert [offer.gpu for offer in rig.account.offers()] == ["NVIDIA GeForce RTX 4090 48G"]
