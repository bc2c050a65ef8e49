"""What every adapter must do, whatever its platform: one suite, run over all of them."""

from __future__ import annotations

import contextlib

import pytest

from costguard.core.power import Power
from costguard.providers.base import Absent, NoCapacity, Refused, Unclear
from costguard.providers.shared import adopted
from tests.providers.asking import call, every, hasty, rent
from tests.providers.rigs import NOW, TAG, Rig

# ------------------------------------------------------------------------------------ the life


@every
def test_an_instance_lives(rig: Rig) -> None:
    """Rented under our tag, on, off, on again elsewhere, off, given back, absent."""
    made = rig.account.create(rig.request(), NOW)
    assert made.tag == TAG
    assert made.read.power.may_charge
    rig.cloud.settle()
    on = rig.account.read(made.id, NOW)
    assert (on.read.power, on.read.is_charging, on.tag, on.gpu_count) == (
        Power.RUNNING,
        True,
        TAG,
        1,
    )
    assert on.ssh is not None
    assert (on.ssh.host, on.ssh.port) == rig.cloud.reach(rig.cloud.only())
    rig.account.stop(made.id)
    assert rig.account.read(made.id, NOW).read.power.may_charge, "accepted is not stopped"
    rig.cloud.settle()
    off = rig.account.read(made.id, NOW)
    assert (off.read.power, off.read.is_charging, off.ssh) == (Power.STOPPED, False, None)
    rig.account.start(made.id)
    assert rig.account.read(made.id, NOW).read.power.may_charge
    rig.cloud.settle()
    again = rig.account.read(made.id, NOW)
    assert again.read.power is Power.RUNNING
    assert again.ssh is not None
    assert (again.ssh.host, again.ssh.port) == rig.cloud.reach(rig.cloud.only())
    assert again.ssh != on.ssh, "where it is reached must be asked anew after each start"
    rig.account.stop(made.id)
    rig.cloud.settle()
    rig.account.release(made.id)
    with contextlib.suppress(Absent):
        assert rig.account.read(made.id, NOW).read.power is Power.RELEASED
    assert rig.account.list_tagged("costguard-", NOW) == ()


@every
def test_money_is_in_the_right_unit(rig: Rig) -> None:
    """The quote, the rented instance and the same one switched off have one and the same tariff."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    off = rig.account.read(view.id, NOW)
    for tariff in (rig.account.price(rig.request()).tariff, view.tariff, off.tariff):
        assert tariff.price_micros_per_hour == rig.price_micros
        assert tariff.paused_micros_per_hour == rig.paused_micros
        assert (tariff.quantum_s, tariff.by_clock) == (rig.quantum_s, False)
        assert (tariff.minimum_s, tariff.minimum_micros) == (rig.minimum_s, rig.minimum_micros)
        abroad = rig.account.facts.currency != "CNY"
        assert (tariff.foreign is not None) is abroad, "the rate belongs into the books"


@every
def test_an_instance_that_is_off_has_a_price_for_a_daemon_just_started(rig: Rig) -> None:
    """Never 0: its next lease would be free of charge."""
    rig.cloud.add(TAG, asked=rig.extra)
    (view,) = rig.account.list_tagged(TAG, NOW)
    assert view.read.power is Power.STOPPED
    assert rig.account.read(view.id, NOW).tariff.price_micros_per_hour == rig.price_micros


@every
def test_a_price_change_is_seen(rig: Rig) -> None:
    """Of what could be rented, and of what runs."""
    view = rent(rig)
    rig.cloud.price = "31"
    if not rig.tells_running_price:
        assert not rig.account.facts.tells_prices, "then it is copied into the config"
        return
    assert rig.account.read(view.id, NOW).tariff.price_micros_per_hour > rig.price_micros * 1.9
    asked = rig.account.quote(rig.gpu).tariff.price_micros_per_hour
    assert (asked > rig.price_micros * 1.9) is rig.account.facts.tells_prices


@every
def test_two_cards_cost_twice_as_much(rig: Rig) -> None:
    """Whether a platform tells the price of a card or of the machine."""
    if rig.machines_are_fixed:
        with pytest.raises(Refused, match="not 2"):
            rig.account.price(rig.request(gpu_count=2))
        return
    two = rig.account.price(rig.request(gpu_count=2)).tariff.price_micros_per_hour
    assert two - rig.disk_micros == 2 * (rig.price_micros - rig.disk_micros)


@every
def test_a_read_carries_when_it_was_begun(rig: Rig) -> None:
    """The proof of a stop rests on it."""
    view = rent(rig)
    assert view.read.begun == NOW
    assert rig.account.list_tagged(TAG, NOW)[0].read.begun == NOW


@every
def test_a_state_that_nobody_knows_is_unknown(rig: Rig) -> None:
    """And unknown may charge."""
    view = rent(rig)
    rig.cloud.only().power = rig.word
    read = rig.account.read(view.id, NOW).read
    assert read.power is Power.UNKNOWN
    assert read.is_charging


@every
def test_what_is_not_there_is_absent(rig: Rig) -> None:
    """And it can neither be started nor stopped."""
    nothing = rig.cloud.new_id(999)
    with pytest.raises(Absent):
        rig.account.read(nothing, NOW)
    for route in ("start", "stop", "release"):
        with pytest.raises((Absent, Refused)):
            call(rig, route, nothing)


@every
def test_lists_give_every_page_of_our_tag_and_nothing_else(rig: Rig) -> None:
    """Far more than a page of them, and strangers between."""
    ours = {rig.cloud.add(f"{TAG}{n}", asked=rig.extra).id for n in range(rig.many)}
    for n in range(7):
        rig.cloud.add(f"somebody-{n}", asked=rig.extra)
    found = rig.account.list_tagged(TAG, NOW)
    assert {view.id for view in found} == ours
    assert len(found) == len(ours)


# ------------------------------------------------------------------------------------ renting


@every
def test_above_the_price_limit_nothing_is_rented(rig: Rig) -> None:
    """Said before the call, with both prices."""
    with pytest.raises(Refused, match=r"limit of ¥10\.00"):
        rig.account.create(rig.request(max_price_micros_per_hour=10_000_000), NOW)
    assert rig.cloud.counts["create"] == rig.limits_by_itself
    exact = rig.request(max_price_micros_per_hour=rig.price_micros)
    rig.account.create(exact, NOW)
    assert rig.cloud.only().tag == TAG


@every
def test_no_capacity_is_told_apart_from_other_refusals(rig: Rig) -> None:
    """One is waited out, the other is final."""
    rig.cloud.habits.add("no_capacity")
    with pytest.raises(NoCapacity):
        rig.account.create(rig.request(), NOW)
    with pytest.raises(Refused) as refused:
        rig.account.create(rig.request(gpu="GTX 9"), NOW)
    assert not isinstance(refused.value, NoCapacity)


@every
def test_a_card_that_is_not_there_is_refused_with_those_there_are(rig: Rig) -> None:
    """A definite no, and a way out."""
    with pytest.raises(Refused, match=r"there are: \w"):
        rig.account.quote("H900")


@every
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["cut", "slow"])
def test_a_create_without_an_answer_is_unclear_and_made_once(
    rig: Rig, kind: str, after: bool
) -> None:
    """With the effect or without: a list of our tag tells."""
    rig.cloud.fail("create", kind, after=after, times=1)
    with hasty(rig, kind), pytest.raises(Unclear):
        rig.account.create(rig.request(), NOW)
    assert rig.cloud.counts["create"] == 1
    assert len(rig.account.list_tagged(TAG, NOW)) == after


@every
def test_what_was_rented_is_known_even_if_it_cannot_be_read(rig: Rig) -> None:
    """The create call has said its id: an answer that fails afterwards must not lose it."""
    rig.cloud.fail("read", "500")
    view = rig.account.create(rig.request(), NOW)
    assert view.id == rig.cloud.only().id
    assert view.read.power.may_charge


# ------------------------------------------------------------------------------------ stopping


@every
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["cut", "slow"])
def test_a_stop_without_an_answer_is_unclear_and_made_once(
    rig: Rig, kind: str, after: bool
) -> None:
    """Whether it took effect is read."""
    view = rent(rig)
    rig.cloud.fail("stop", kind, after=after, times=1)
    with hasty(rig, kind), pytest.raises(Unclear):
        rig.account.stop(view.id)
    assert rig.cloud.counts["stop"] == 1
    rig.cloud.settle()
    power = rig.account.read(view.id, NOW).read.power
    assert power is (Power.STOPPED if after else Power.RUNNING)


@every
def test_no_capacity_at_a_start_is_no_capacity(rig: Rig) -> None:
    """The card went to somebody else: waited out, never worked around by renting anew."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.cloud.settle()
    rig.cloud.habits.add("no_capacity")
    if rig.tells_capacity_by_state:
        rig.account.start(view.id)
        assert rig.account.read(view.id, NOW).waits_for_capacity
    else:
        with pytest.raises(NoCapacity):
            rig.account.start(view.id)
        assert not rig.account.read(view.id, NOW).waits_for_capacity
    assert rig.cloud.counts["create"] == 1


# ------------------------------------------------------------------------------------ adopting


@every
def test_what_was_made_in_the_console_is_adopted_by_its_id(rig: Rig) -> None:
    """On or off; what is not there is not."""
    machine = rig.cloud.add("by-hand", "running", asked=rig.extra)
    view = adopted(rig.account, machine.id, NOW)
    assert (view.id, view.read.power) == (machine.id, Power.RUNNING)
    assert view.tariff.price_micros_per_hour == rig.price_micros
    with pytest.raises(Absent):
        adopted(rig.account, rig.cloud.new_id(999), NOW)


@pytest.mark.parametrize("rig", ["compshare", "autodl", "chenyu"], indirect=True)
def test_what_a_stop_would_not_stop_is_not_adopted(rig: Rig) -> None:
    """It is said why."""
    machine = rig.cloud.add("by-hand", "running", charge="Month")
    with pytest.raises(Refused, match="cannot be adopted: it is"):
        adopted(rig.account, machine.id, NOW)


@pytest.mark.parametrize("rig", ["aws"], indirect=True)
def test_what_was_given_back_is_not_adopted(rig: Rig) -> None:
    """AWS still tells of it for an hour."""
    view = rent(rig)
    rig.account.release(view.id)
    with pytest.raises(Absent, match="given back"):
        adopted(rig.account, view.id, NOW)
