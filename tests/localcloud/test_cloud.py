from __future__ import annotations

import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from costguard.localcloud.errors import ApiError
from tests.localcloud.world import JANUARY_MS, order, poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.localcloud.world import CloudWorld

    MakeWorld = Callable[..., CloudWorld]

HOUR_MS = 3_600_000


def refused(call: Callable[[], Any], code: str) -> ApiError:
    """The ApiError that the call raises, of this code."""
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_instance_starts_by_itself(world: CloudWorld) -> None:
    """Create answers with a starting instance that soon runs, charged, with its SSH address."""
    made = world.cloud.create(order(tag="mine", image=None))
    assert (made["status"], made["ssh"], made["charging"], made["boots"]) == (
        "starting",
        None,
        False,
        0,
    )
    shown = world.wait(made["id"], "running")
    assert (shown["charging"], shown["charged_since_ms"], shown["boots"]) == (True, JANUARY_MS, 1)
    assert shown["ssh"]["host_key"].startswith("ssh-ed25519 ")
    assert shown["work_dir"].startswith("/")


def test_port_changes_and_host_key_stays_at_resume(world: CloudWorld) -> None:
    """A resumed instance has another port, the same host key and one more boot."""
    instance_id = world.create()
    first = world.cloud.get(instance_id)
    assert world.stop(instance_id)["ssh"] is None
    world.cloud.start(instance_id)
    second = world.wait(instance_id, "running")
    assert second["ssh"]["port"] != first["ssh"]["port"]
    assert second["ssh"]["host_key"] == first["ssh"]["host_key"]
    assert second["boots"] == 2


def test_list_is_newest_first_by_pages_and_tag(make_world: MakeWorld) -> None:
    """Twenty a page, newest first, one tag or all."""
    world = make_world(stock=100)
    made = [
        world.cloud.create(order(tag="odd" if number % 2 else "even"))["id"] for number in range(25)
    ]
    first, second = world.cloud.list_page(None, 1), world.cloud.list_page(None, 2)
    assert [one["id"] for one in first["instances"] + second["instances"]] == made[::-1]
    assert (len(first["instances"]), first["total"]) == (20, 25)
    assert world.cloud.list_page("odd", 1)["total"] == 12
    assert world.cloud.list_page(None, 3)["instances"] == []


def test_stock_is_what_nobody_holds(world: CloudWorld) -> None:
    """Cards on are taken from the stock, and come back when the instance is stopped."""
    instance_id = world.create(gpu_count=3)
    refused(lambda: world.cloud.create(order(gpu_count=2)), "no_capacity")
    assert world.cloud.offers()["offers"][0]["stock"] == 1
    world.stop(instance_id)
    world.create(gpu_count=2)
    refused(lambda: world.cloud.start(instance_id), "no_capacity")


def test_empty_wallet_starts_nothing(make_world: MakeWorld) -> None:
    """Neither create nor start is possible once the first quantum cannot be paid."""
    world = make_world(balance_micros=15_000_000, quantum_s=3_600)
    instance_id = world.create()
    world.clock.ms += 1
    world.stop(instance_id)
    assert world.cloud.wallet() == {"balance_yuan": "0.00"}
    refused(lambda: world.cloud.create(order()), "insufficient_balance")
    refused(lambda: world.cloud.start(instance_id), "insufficient_balance")


def test_price_above_the_maximum_is_refused(world: CloudWorld) -> None:
    """The maximum is for all cards of the instance, and nothing is rented above it."""
    world.create(gpu_count=2, max_price_yuan_per_hour="30")
    wrong = order(gpu_count=2, max_price_yuan_per_hour="29.99")
    assert "30.00" in refused(lambda: world.cloud.create(wrong), "bad_request").message
    assert world.cloud.list_page(None, 1)["total"] == 1


def test_start_and_stop_may_be_repeated(world: CloudWorld) -> None:
    """Starting what runs and stopping what is stopped changes nothing."""
    instance_id = world.create()
    assert world.cloud.start(instance_id)["status"] == "running"
    stopped = world.stop(instance_id)
    assert world.cloud.stop(instance_id) == stopped


def test_stop_while_starting_ends_the_start(make_world: MakeWorld) -> None:
    """An instance that is stopped before it ran never runs and is never charged."""
    world = make_world(start_s=60.0)
    instance_id = str(world.cloud.create(order())["id"])
    shown = world.stop(instance_id)
    assert (shown["boots"], shown["charged_since_ms"], world.amounts(instance_id)) == (0, None, [])


def test_what_an_instance_in_motion_refuses(make_world: MakeWorld) -> None:
    """No start while stopping, no release before it is off."""
    world = make_world(stop_s=60.0)
    instance_id = world.create()
    refused(lambda: world.cloud.release(instance_id), "wrong_state")
    world.cloud.stop(instance_id)
    refused(lambda: world.cloud.start(instance_id), "wrong_state")
    refused(lambda: world.cloud.release(instance_id), "wrong_state")


def test_released_instance_is_gone_and_its_bill_stays(make_world: MakeWorld) -> None:
    """After release every call says not_found, but the bill has its closed lines."""
    world = make_world(disk_price_micros_per_hour=36_000)
    instance_id = world.create()
    world.clock.ms += 10_000
    world.stop(instance_id)
    world.clock.ms += 5_000
    world.cloud.release(instance_id)
    world.clock.ms += 60_000
    for call in (world.cloud.get, world.cloud.start, world.cloud.stop, world.cloud.release):
        refused(lambda call=call: call(instance_id), "not_found")  # type: ignore[misc]
    assert world.amounts(instance_id) == [(10, "0.041666"), (15, "0.000150")]
    refused(lambda: world.cloud.bill("i-never"), "not_found")


def test_meter_runs_from_running_to_off(world: CloudWorld) -> None:
    """Each power interval is one line, rounded up on its own."""
    instance_id = world.create()
    world.clock.ms += 1_500
    assert world.stop(instance_id)["charged_until_ms"] == JANUARY_MS + 1_500
    world.clock.ms += HOUR_MS
    world.cloud.start(instance_id)
    world.wait(instance_id, "running")
    world.clock.ms += 1_500
    assert world.amounts(instance_id) == [(2, "0.008333"), (2, "0.008333")]
    assert world.cloud.bill(None)["total_yuan"] == "0.016666"
    assert world.cloud.wallet()["balance_yuan"] == "999.983334"


@pytest.mark.parametrize(("bill_from", "charged"), [("running", False), ("starting", True)])
def test_meter_may_begin_with_the_start(
    make_world: MakeWorld, bill_from: str, *, charged: bool
) -> None:
    """--bill-from says whether starting is charged."""
    world = make_world(start_s=60.0, bill_from=bill_from)
    assert world.cloud.create(order())["charging"] is charged


def test_bill_that_is_late_lacks_the_last_seconds(world: CloudWorld) -> None:
    """late_bill_s: the bill is as it stood so many seconds ago."""
    instance_id = world.create()
    world.clock.ms += 10_000
    world.faults.merge({"late_bill_s": 4})
    assert world.amounts(instance_id) == [(6, "0.025000")]


def test_wrong_bill_is_wrong_by_its_factor_and_the_wallet_is_not(world: CloudWorld) -> None:
    """wrong_bill: amounts are multiplied; what the wallet loses stays true."""
    instance_id = world.create()
    world.clock.ms += 6_000
    world.faults.merge({"wrong_bill": True})
    assert world.amounts(instance_id) == [(6, "0.050000")]
    world.faults.merge({"wrong_bill": {"factor": Decimal("0.5")}})
    assert world.cloud.bill(instance_id)["total_yuan"] == "0.012500"
    assert world.cloud.wallet()["balance_yuan"] == "999.975"


def test_new_price_splits_what_is_open_and_holds_for_what_is_new(world: CloudWorld) -> None:
    """price: open intervals get a second line; clearing it brings the usual price back."""
    running, stopped = world.create(), world.create()
    world.stop(stopped)
    world.clock.ms += 6_000
    world.cloud.set_faults({"price": "18"})
    assert world.cloud.get(running)["price_yuan_per_hour"] == "18.00"
    assert world.cloud.get(stopped)["price_yuan_per_hour"] == "18.00"
    assert world.cloud.offers()["offers"][1]["price_yuan_per_hour"] == "18.00"
    world.clock.ms += 6_000
    assert world.amounts(running) == [(6, "0.025000"), (6, "0.030000")]
    world.cloud.set_faults({"price": None})
    world.clock.ms += 6_000
    assert world.amounts(running)[2] == (6, "0.025000")


def test_capacity_can_be_refused_at_create_and_at_start(world: CloudWorld) -> None:
    """no_capacity: on both routes, or on the one that it is limited to."""
    instance_id = world.create()
    world.stop(instance_id)
    world.faults.merge({"no_capacity": {"routes": ["start"]}})
    world.stop(world.create())
    refused(lambda: world.cloud.start(instance_id), "no_capacity")
    world.faults.merge({"no_capacity": {"count": 1}})
    refused(lambda: world.cloud.create(order()), "no_capacity")
    world.cloud.start(instance_id)


def test_stop_can_be_accepted_and_ignored(world: CloudWorld) -> None:
    """stop_ignored: the first calls change nothing, the next one stops; all are on record."""
    instance_id = world.create()
    world.faults.merge({"stop_ignored": {"count": 2}})
    for _ in range(2):
        assert world.cloud.stop(instance_id)["status"] == "running"
    world.stop(instance_id)
    calls = world.cloud.truth()["stop_calls"]
    assert [(one["via"], one["ignored"]) for one in calls] == [
        ("stop", True),
        ("stop", True),
        ("stop", False),
    ]
    assert {one["at_ms"] for one in calls} == {JANUARY_MS}


def test_power_off_from_inside_is_a_stop_with_the_same_faults(world: CloudWorld) -> None:
    """The instance's own token turns off this instance and no other, unless it is ignored."""
    instance_id, other = world.create(), world.create()
    instance = world.registry.find(instance_id)
    assert instance is not None
    world.faults.merge({"stop_ignored": {"count": 1}})
    assert world.cloud.power_off(instance.guest_token)["status"] == "running"
    world.cloud.power_off(instance.guest_token)
    world.wait(instance_id, "stopped")
    assert world.cloud.get(other)["status"] == "running"
    refused(lambda: world.cloud.power_off("wrong"), "unauthorized")


def test_stop_while_starting_can_be_refused(make_world: MakeWorld) -> None:
    """refuse_stop_while_starting: wrong_state, and the start goes on; once running it stops."""
    world = make_world(start_s=60.0)
    world.faults.merge({"refuse_stop_while_starting": True})
    instance_id = str(world.cloud.create(order())["id"])
    refused(lambda: world.cloud.stop(instance_id), "wrong_state")
    assert world.cloud.get(instance_id)["status"] == "starting"
    world.faults.merge({"refuse_stop_while_starting": {"routes": ["power_off"]}})
    world.stop(instance_id)


@pytest.mark.parametrize("how", ["stop", "clear", "start", "release"])
def test_machine_can_be_off_and_still_charged(world: CloudWorld, how: str) -> None:
    """off_but_billing: the meter runs on until a further stop, the fault's end, or a new start."""
    instance_id = world.create()
    world.faults.merge({"off_but_billing": True})
    shown = world.stop(instance_id, expected="off")
    assert (shown["charging"], shown["ssh"], shown["charged_until_ms"]) == (True, None, None)
    assert instance_id not in world.machines.running
    world.clock.ms += 9_000
    assert world.amounts(instance_id)[0][0] == 9
    if how == "stop":
        assert world.cloud.stop(instance_id)["status"] == "stopped"
    elif how == "clear":
        world.cloud.set_faults({"off_but_billing": False})
        assert world.cloud.get(instance_id)["charging"] is False
    elif how == "start":
        world.cloud.start(instance_id)
        world.wait(instance_id, "running")
    else:
        world.cloud.release(instance_id)
    world.clock.ms += 5_000
    assert world.amounts(instance_id)[0][0] == 9


@pytest.mark.parametrize(
    ("fault", "status"), [("slow_start_s", "starting"), ("slow_stop_s", "stopping")]
)
def test_transitions_can_be_slow(world: CloudWorld, fault: str, status: str) -> None:
    """slow_start_s and slow_stop_s: so much longer in between; a slow stop is charged for."""
    instance_id = world.create()
    if fault == "slow_start_s":
        world.stop(instance_id)
    world.faults.merge({fault: 60})
    call = world.cloud.start if fault == "slow_start_s" else world.cloud.stop
    assert call(instance_id)["status"] == status
    poll(lambda: world.faults.as_json()[fault]["hits"])
    shown = world.cloud.get(instance_id)
    assert (shown["status"], shown["charging"]) == (status, status == "stopping")


def test_slow_transition_comes_to_its_end(world: CloudWorld) -> None:
    """A slow stop stops all the same."""
    instance_id = world.create()
    world.faults.merge({"slow_stop_s": Decimal("0.05")})
    world.stop(instance_id)
    assert world.faults.as_json()["slow_stop_s"]["hits"] == 1


def test_timer_turns_off_at_its_time_and_never_before(world: CloudWorld) -> None:
    """A millisecond before its time the instance runs; at its time it is turned off."""
    instance_id = world.create()
    at_ms = JANUARY_MS + 60_000
    assert world.cloud.set_timer(instance_id, {"at": at_ms})["stop_at_ms"] == at_ms
    world.move(59_999)
    assert world.cloud.get(instance_id)["status"] == "running"
    world.move(1)
    shown = world.wait(instance_id, "stopped")
    assert (shown["stop_at_ms"], shown["charged_until_ms"]) == (None, at_ms)


def test_timer_set_at_create_works(world: CloudWorld) -> None:
    """stop_at arms the timer with the create call."""
    instance_id = world.create(stop_at=JANUARY_MS + 1_000)
    world.move(1_000)
    world.wait(instance_id, "stopped")


def test_timer_can_be_moved_and_cleared(world: CloudWorld) -> None:
    """A later time replaces an earlier one, and null clears it."""
    instance_id = world.create(stop_at=JANUARY_MS + 1_000)
    world.cloud.set_timer(instance_id, {"at": JANUARY_MS + 5_000})
    world.move(1_000)
    assert world.cloud.set_timer(instance_id, {"at": None})["stop_at_ms"] is None
    world.move(9_000)
    assert world.cloud.get(instance_id)["status"] == "running"


def test_timer_refuses_what_is_no_time_to_come(make_world: MakeWorld) -> None:
    """Too near, past, no number, other keys: bad_request, and the old time stays."""
    world = make_world(min_timer_lead_s=60.0)
    instance_id = world.create(stop_at=JANUARY_MS + 90_000)
    for body in ({"at": JANUARY_MS + 59_999}, {"at": "x"}, {"at": 1.5}, {}, {"at": None, "x": 1}):
        refused(lambda body=body: world.cloud.set_timer(instance_id, body), "bad_request")  # type: ignore[misc]
    assert world.cloud.get(instance_id)["stop_at_ms"] == JANUARY_MS + 90_000


def test_timer_goes_when_the_instance_stops(world: CloudWorld) -> None:
    """A timer belongs to one power interval: it does not turn off the next one."""
    instance_id = world.create(stop_at=JANUARY_MS + 1_000)
    assert world.stop(instance_id)["stop_at_ms"] is None


def test_timer_can_be_armed_before_the_start(world: CloudWorld) -> None:
    """A timer set while the instance is stopped works for the next start."""
    instance_id = world.create()
    world.stop(instance_id)
    world.cloud.set_timer(instance_id, {"at": JANUARY_MS + 1_000})
    world.cloud.start(instance_id)
    world.wait(instance_id, "running")
    world.move(1_000)
    world.wait(instance_id, "stopped")


def test_timer_of_a_stopped_instance_lapses(world: CloudWorld) -> None:
    """A time that passes while the instance is off is forgotten."""
    instance_id = world.create()
    world.stop(instance_id)
    world.cloud.set_timer(instance_id, {"at": JANUARY_MS + 1_000})
    world.move(1_000)
    assert world.cloud.get(instance_id)["stop_at_ms"] is None


def test_timer_can_be_late(world: CloudWorld) -> None:
    """timer_late_s: it fires so much later, and the meter runs until then."""
    world.faults.merge({"timer_late_s": 3})
    instance_id = world.create(stop_at=JANUARY_MS + 1_000)
    world.move(1_000)
    world.move(2_999)
    assert world.cloud.get(instance_id)["status"] == "running"
    world.move(1)
    assert world.wait(instance_id, "stopped")["charged_until_ms"] == JANUARY_MS + 4_000


def test_timer_can_be_ignored(world: CloudWorld) -> None:
    """timer_ignored: it is read back as set, and never fires."""
    world.faults.merge({"timer_ignored": True})
    instance_id = world.create(stop_at=JANUARY_MS + 1_000)
    world.move(1_000)
    world.move(HOUR_MS)
    shown = world.cloud.get(instance_id)
    assert (shown["status"], shown["stop_at_ms"]) == ("running", JANUARY_MS + 1_000)


def test_timer_can_be_lost(world: CloudWorld) -> None:
    """timer_lost: the answer shows the new time, reading back shows the old one."""
    instance_id = world.create(stop_at=JANUARY_MS + 1_000)
    world.faults.merge({"timer_lost": True})
    answer = world.cloud.set_timer(instance_id, {"at": JANUARY_MS + 9_000})
    assert answer["stop_at_ms"] == JANUARY_MS + 9_000
    assert world.cloud.get(instance_id)["stop_at_ms"] == JANUARY_MS + 1_000


def test_instance_that_does_not_come_up_is_stopped_and_not_charged(world: CloudWorld) -> None:
    """A failed boot ends as stopped, with the reason in the truth."""
    world.machines.broken = "no room"
    instance_id = str(world.cloud.create(order())["id"])
    world.wait(instance_id, "stopped")
    assert world.amounts(instance_id) == []
    assert world.cloud.truth()["instances"][0]["last_error"] == "no room"


def test_instance_whose_process_dies_is_stopped(world: CloudWorld) -> None:
    """A crash of the instance ends its meter."""
    instance_id = world.create()
    world.clock.ms += 2_000
    world.machines.running[instance_id].ended.set()
    assert world.wait(instance_id, "stopped")["charged_until_ms"] == JANUARY_MS + 2_000


def test_disk_that_is_full_keeps_nothing_from_stopping(
    world: CloudWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State that cannot be written now is written later; the instance is off at once."""
    instance_id = world.create()
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "save", _full)
        patch.setattr(world.store, "add_stop_call", _full)
        with pytest.raises(sqlite3.Error):
            world.cloud.stop(instance_id)
        world.wait(instance_id, "stopped")
        with pytest.raises(ApiError, match="cannot write"):
            world.cloud.create(order())
    assert world.cloud.list_page(None, 1)["total"] == 1
    poll(lambda: world.store.load()[0].status == "stopped", "the late write")


def _full(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")
