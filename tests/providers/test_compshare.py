from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from costguard.core.power import Power
from costguard.providers.base import Busy, Refused, Unclear
from costguard.providers.ucloud import signature
from tests.providers.asking import rent
from tests.providers.rigs import NOW, TAG, compshare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.rigs import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The adapter and its platform."""
    made = compshare()
    yield made
    made.cloud.close()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"foo": "bar"}, "634edc1bb957c0d65e5ab5494cf3b7784fbc87af"),
        (
            {"foo": "bar", "PublicKey": "my_public_key"},
            "d4411ab30953fb0bbcb1e7313081f05e4e91a394",
        ),
    ],
)
def test_the_signature_is_the_documented_one(params: dict[str, str], expected: str) -> None:
    """The vendor's own test vectors, without and with the public key."""
    assert signature(SecretStr("my_private_key"), params) == expected


def test_postpay_is_asked_for_where_the_default_is_a_month(rig: Rig) -> None:
    """What is not said is charged by the month, and shutting down would not stop that."""
    view = rent(rig)
    assert rig.cloud.only().charge == "payg"
    assert rig.cloud.only().asked["ChargeType"] == "Postpay"
    assert view.charge_type == "Postpay"
    assert view.unfit is None


@pytest.mark.parametrize("charge", ["Month", "Day", "Dynamic", "Spot", "Year"])
def test_an_instance_whose_meter_a_stop_does_not_stop_is_unfit(rig: Rig, charge: str) -> None:
    """It is said why; switched off it still costs, and counts as doing so."""
    machine = rig.cloud.add(TAG, charge=charge)
    view = rig.account.read(machine.id, NOW)
    assert view.unfit is not None
    assert charge in view.unfit
    assert view.read.power is Power.OFF_BILLING
    assert view.read.is_charging


def test_a_state_that_is_empty_is_unknown(rig: Rig) -> None:
    """The platform could not tell; that is not stopped."""
    view = rent(rig)
    rig.cloud.only().power = ""
    assert rig.account.read(view.id, NOW).read.power is Power.UNKNOWN


def test_an_operation_under_way_is_busy_and_not_unclear(rig: Rig) -> None:
    """Nothing happened; how long to wait is said, and it is shorter than the lock may hold."""
    view = rent(rig)
    rig.cloud.habits.add("locked")
    with pytest.raises(Busy) as busy:
        rig.account.stop(view.id)
    assert busy.value.retry_after_s == 60


def test_the_timer_is_set_by_its_documented_field_in_the_default_project(rig: Rig) -> None:
    """Not by the SDK's `StopTime`; the project is asked for once."""
    view = rent(rig)
    for late_ms in (900_000, 960_000):
        assert rig.account.arm_timer(view.id, NOW.utc_ms + late_ms) == NOW.utc_ms + late_ms
    sent = [call.form for call in rig.cloud.calls if "SchedulerStopTime" in call.form]
    assert [form["ProjectId"] for form in sent] == ["org-a", "org-a"]
    assert rig.cloud.counts["projects"] == 1


def test_a_timer_that_does_not_show_is_asked_for_three_times(rig: Rig) -> None:
    """As the platform's own command line does."""
    view = rent(rig)
    rig.cloud.habits.add("timer_lost")
    before = rig.cloud.counts["read"]
    assert rig.account.arm_timer(view.id, NOW.utc_ms + 900_000) is None
    assert rig.cloud.counts["read"] == before + 3


def test_the_password_is_decoded_and_hidden(rig: Rig) -> None:
    """Base64 on the wire, a secret here; where it cannot be read, the power state still can."""
    view = rent(rig)
    assert view.ssh is not None
    assert view.ssh.password is not None
    assert view.ssh.password.get_secret_value() == "boot-word"
    assert "boot-word" not in repr(view)


def test_the_smallest_machine_around_the_card_is_rented(rig: Rig) -> None:
    """Memory is told in GiB and asked for in MiB."""
    rent(rig, gpu_count=2, system_disk_gb=80, data_disk_gb=100)
    asked = rig.cloud.only().asked
    assert (asked["CPU"], asked["Memory"], asked["GPU"]) == ("32", str(128 * 1024), "2")
    assert (asked["Disks.0.Size"], asked["Disks.1.Size"]) == ("80", "100")
    assert asked["Disks.1.IsBoot"] == "false"


def test_a_common_name_finds_the_card_and_two_that_fit_are_a_question(rig: Rig) -> None:
    """`RTX 4090` is the 4090, not its 48 GB sister."""
    assert rig.account.quote("RTX 4090").gpu == "4090"
    assert rig.account.quote("RTX 4090 48G").gpu == "4090_48G"
    with pytest.raises(Refused, match="4090, 4090_48G"):
        rig.account.quote("RTX 40")


def test_a_type_that_is_sold_out_is_not_even_asked_for(rig: Rig) -> None:
    """The price list says so before the call."""
    rig.cloud.habits.add("sold_out")
    assert not rig.account.quote("3090").in_stock
    with pytest.raises(Refused, match="sold out"):
        rig.account.create(rig.request(), NOW)
    assert rig.cloud.counts["create"] == 0


def test_a_nights_discount_is_not_counted_on(rig: Rig) -> None:
    """It ends in the morning; the lease may not."""
    rig.cloud.habits.add("night")
    assert rig.account.quote("3090").tariff.price_micros_per_hour == rig.price_micros


def test_the_balance_is_told_or_not_told(rig: Rig) -> None:
    """At this address the question may be unknown: then there is no answer, and no error."""
    assert rig.account.balance_micros() == 88_500_000
    rig.cloud.habits.add("no_balance")
    assert rig.account.balance_micros() is None


def test_bill_lines_come_month_by_month(rig: Rig) -> None:
    """From the month of the beginning to that of the end."""
    day_ms = 86_400_000
    lines = rig.account.bill_lines("uhost-1", NOW.utc_ms - 40 * day_ms, NOW.utc_ms)
    assert [line.micros for line in lines] == [15_500_000] * len(lines)
    cycles = [call.form["BillingCycle"] for call in rig.cloud.calls]
    assert cycles == ["2026-09", "2026-10", "2026-11"]


def test_images_are_found_by_words_on_every_page(rig: Rig) -> None:
    """The second page holds the one that is looked for."""
    (image,) = rig.account.images("qwen2.5 4.129,")
    assert image.id == "compshareImage-129"


def test_offers_are_priced_for_so_many_cards(rig: Rig) -> None:
    """One for each type in the zone."""
    offers = {offer.gpu: offer for offer in rig.account.offers(2)}
    assert set(offers) == {"3090", "4090", "4090_48G", "A100"}
    assert offers["A100"].tariff.price_micros_per_hour == 31_020_000
    assert offers["A100"].memory_gib == 80


def test_another_instance_than_asked_for_is_not_understood(rig: Rig) -> None:
    """A filter that the platform ignores must not make a stranger of ours."""
    machine = rig.cloud.add("somebody")
    rig.cloud.machines["uhost-7"] = machine
    with pytest.raises(Unclear):
        rig.account.read("uhost-7", NOW)
