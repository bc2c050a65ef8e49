from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.core.actions import Grant
from costguard.core.calendar import month_of
from costguard.daemon.act import HANDLERS, Actor
from costguard.errors import UserError
from costguard.store.drilled import Proof, keep_proof
from costguard.store.ledger import Caps
from costguard.store.models import Command, Event, Job, PowerInterval
from tests.daemon.world import YUAN, ZONE, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.world import World


def set_budget(world: World, yuan: object) -> None:
    """As `costguard budget set --job job YUAN`."""
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": str(yuan)})


def test_a_price_rise_is_reserved_in_the_pass_that_sees_it(world: World) -> None:
    """The open lease is re-priced at once, and what runs is charged at the price in force."""
    world.set_script(steps=60)
    world.start_training()
    world.run(30)  # until nothing is set aside for a duplicate any more
    pending = world.pending()
    world.cloud.set_price(72 * YUAN)
    world.tick()
    assert world.pending() > 1.5 * pending
    assert [event.kind for event in world.events("price_changed")] == ["price_changed"]
    world.until_final()
    assert world.job().state == "finished"
    prices = [row.price_micros_per_hour for row in world.rows(PowerInterval)]
    assert prices == [36 * YUAN, 72 * YUAN]
    world.assert_books()


def test_a_price_rise_that_does_not_fit_stops_now(world: World) -> None:
    """Not at the lease's end: what was reserved no longer reaches it."""
    world.set_script(steps=500)
    machine = world.start_training(spec_of(yuan=0.6))
    world.cloud.set_price(360 * YUAN)
    risen_ms = world.clock.true_ms
    world.until_final()
    assert world.job().pause_reason == "budget"
    assert "price" in (world.job().verdict_text or "")
    assert machine.stop_calls_ms[0] - risen_ms <= 4_000
    world.assert_books()


def test_a_price_fall_is_charged_only_from_when_it_was_seen(world: World) -> None:
    """The books are never the lower ones."""
    world.set_script(steps=20)
    world.start_training()
    world.cloud.set_price(18 * YUAN)
    world.until_final()
    assert world.posted() >= world.cloud.machine_micros(world.cloud.machines[0])
    world.assert_books()


@pytest.mark.parametrize("quantum_s", [1, 7, 60, 3_600])
def test_every_tariff_is_booked_as_it_is_billed(
    quantum_s: int, make_world: Callable[..., World]
) -> None:
    """A quantum begun is a quantum paid, posted whole at its start."""
    world = make_world(quantum_s=quantum_s)
    world.set_script(steps=20)
    world.start_training(spec_of(yuan=40))
    world.tick()
    assert world.posted() % (quantum_s * 10_000) == 0
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_an_hour_that_does_not_fit_is_refused_before_renting(
    make_world: Callable[..., World],
) -> None:
    """An hour begun is an hour paid: 5 yuan do not reach for one at 36."""
    world = make_world(quantum_s=3_600)
    with pytest.raises(UserError, match=r"steps of 3600 s.*need 36\.00"):
        world.submit(spec_of(yuan=5))


def test_a_raised_cap_lets_a_final_lease_go_on(world: World) -> None:
    """Before the end of what was thought to be the last one."""
    world.set_script(steps=60)
    world.start_training(spec_of(yuan=0.4))
    world.until(lambda: world.lease is not None and world.lease.final)
    set_budget(world, 5)
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_a_cap_lowered_below_what_is_spent_is_a_breach_and_stops(world: World) -> None:
    """Facts stay; nothing more is granted; it is said aloud, and shown."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.run(20)
    grants, lowered_ms = world.audit.grants, world.clock.true_ms
    set_budget(world, "0.05")
    world.tick()
    assert world.job().breach
    assert world.alarms("past the cap")
    world.until_final()
    job = world.job()
    assert (job.pause_reason, job.state, job.breach) == ("budget", "paused", True)
    assert world.audit.grants == grants
    assert machine.stop_calls_ms[0] - lowered_ms <= 6_000
    world.assert_books()


def test_a_breach_ends_with_a_raised_cap(world: World) -> None:
    """The flag says how it is, not how it was."""
    world.start_training()
    set_budget(world, "0.01")
    world.until_final()
    set_budget(world, 5)
    world.run(61)
    assert not world.job().breach


def test_a_lowered_cap_that_still_fits_only_ends_earlier(world: World) -> None:
    """No breach: the open lease runs out, and the run stays within the new cap."""
    world.set_script(steps=500)
    machine = world.start_training()
    set_budget(world, "0.5")
    world.until_final()
    assert world.job().pause_reason == "budget"
    assert not world.job().breach
    assert world.cloud.machine_micros(machine) <= 500_000
    world.assert_books()


def test_a_cap_lowered_between_decision_and_grant_refuses_the_grant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1 is checked in the transaction that grants, whatever was decided before it."""
    world.set_script(steps=500)
    world.start_training()

    def late(actor: Actor, action: Grant) -> None:
        set_budget(world, "0.3")
        Actor.grant(actor, action)

    monkeypatch.setitem(HANDLERS, Grant, late)
    world.until(lambda: world.job().cap_micros == 300_000, within_s=20)
    assert any("no lease" in text for _, _, text in world.notices)
    world.until_final()
    assert world.posted() <= 300_000
    world.assert_books()


@pytest.mark.parametrize("caps", [Caps(month_micros=600_000), Caps(project_micros={"p": 600_000})])
def test_a_cap_of_a_month_or_a_project_binds_every_job_together(caps: Caps, world: World) -> None:
    """Two jobs, one cap: together they stay below it."""
    world.caps = caps
    world.set_script(steps=500)
    world.submit(spec_of("job", yuan=5))
    world.submit(spec_of("other", yuan=5))
    world.until_final()
    world.until_final(name="other")
    assert world.posted("job") + world.posted("other") <= 600_000
    assert world.job("other").pause_reason == "budget"
    world.assert_books()


def test_a_month_cap_lowered_at_night_counts_at_once(world: World) -> None:
    """Caps are read at each pass."""
    world.set_script(steps=500)
    world.start_training()
    world.run(10)
    world.caps = Caps(month_micros=50_000)
    world.until_final(within_s=20)
    assert world.job().pause_reason == "budget"


def test_a_submission_is_carried_out_once_however_often_it_is_sent(world: World) -> None:
    """The key makes it one; the second answer is the first."""
    first = world.submit(spec_of(), key="K")
    assert world.submit(spec_of(), key="K") == first
    assert len(world.rows(Job)) == 1
    assert len(world.rows(Command)) == 1


def test_a_submission_is_remembered_over_a_restart(world: World) -> None:
    """The client may ask again after the daemon died on it."""
    first = world.submit(spec_of(), key="K")
    world.restart()
    assert world.submit(spec_of(), key="K") == first
    assert len(world.rows(Job)) == 1


@pytest.mark.parametrize("key", [None, "", 7])
def test_a_submission_without_a_key_is_refused(key: object, world: World) -> None:
    """It could not be told from another one when it is sent again."""
    with pytest.raises(UserError, match="key"):
        world.commands.submit({"spec": spec_of().to_json(), "key": key})
    assert world.rows(Job) == []


def test_an_unfinished_jobs_name_is_refused(world: World) -> None:
    """Two of one name would be told apart by nobody; after its end the name is free again."""
    world.set_script(steps=3)
    world.submit(key="one")
    with pytest.raises(UserError, match="is queued, and not finished") as refused:
        world.submit(key="two")
    assert refused.value.code == "job_exists"
    world.until_final()
    world.submit(key="three")
    assert len(world.rows(Job)) == 2


def test_the_name_of_a_paused_job_is_refused_and_resume_named(world: World) -> None:
    """A second job of the name would leave the first one's work on a paid disk, forgotten."""
    world.set_script(steps=500)
    world.start_training()
    world.commands.pause({"job": "job"})
    world.until_final()
    with pytest.raises(UserError) as refused:
        world.submit(key="again")
    assert "costguard resume job" in refused.value.hint


def test_a_projects_cap_set_while_it_runs_stops_what_is_past_it(world: World) -> None:
    """Down below what is spent: breach, and stop at once; what was spent stays booked."""
    world.set_script(steps=500)
    world.start_training()
    world.run(10)
    answer = world.commands.budget_set({"scope": "project", "name": "p", "yuan": "0.01"})
    assert answer["left_yuan"].startswith("-")
    world.until_final()
    assert world.job().pause_reason == "budget"
    assert world.job().breach
    world.assert_books()


def test_a_months_cap_set_here_goes_before_the_configs(world: World) -> None:
    """And only for that month."""
    world.caps = Caps(month_micros=100 * YUAN)
    month = month_of(world.clock.now().utc_ms, ZONE)
    world.submit(spec_of("one"))
    world.commands.budget_set({"scope": "month", "name": month, "yuan": "0.20"})
    with pytest.raises(UserError, match=f"budget of month {month}") as refused:
        world.submit(spec_of("two"))
    assert refused.value.code == "budget_too_small"
    world.commands.budget_set({"scope": "month", "name": month, "yuan": "50"})
    world.submit(spec_of("two"))
    caps = [event.text for event in world.events("cap_changed")]
    assert caps[-1] == f"the cap of month {month} went from 0.20 to 50.00 yuan"


@pytest.mark.parametrize(
    ("scope", "name", "code"),
    [
        ("month", "2026-13", "unknown_month"),
        ("month", "november", "unknown_month"),
        ("project", "q", "unknown_project"),
        ("planet", "p", "unknown_scope"),
        ("job", "jab", "unknown_job"),
    ],
)
def test_a_cap_on_what_does_not_exist_is_refused(
    scope: str, name: str, code: str, world: World
) -> None:
    """A slip in a name would otherwise set a cap that never binds."""
    world.submit()
    with pytest.raises(UserError) as refused:
        world.commands.budget_set({"scope": scope, "name": name, "yuan": "5"})
    assert refused.value.code == code
    assert world.events("cap_changed") == []


@pytest.mark.parametrize("yuan", ["-5", "abc", "", None, "nan"])
def test_a_budget_that_is_none_is_refused_and_changes_nothing(yuan: object, world: World) -> None:
    """Clear words, and the cap stays."""
    world.submit()
    with pytest.raises(UserError) as refused:
        world.commands.budget_set({"scope": "job", "name": "job", "yuan": yuan})
    assert refused.value.code == "bad_budget"
    assert world.job().cap_micros == 5 * YUAN


def test_a_wish_for_an_unknown_job_is_refused(world: World) -> None:
    """With the names that there are."""
    world.submit()
    with pytest.raises(UserError, match="jobs here: job"):
        world.commands.pause({"job": "kob"})


def test_pausing_all_pauses_all_that_is_not_over(world: World) -> None:
    """And leaves the rest as it was."""
    world.set_script(steps=2)
    world.submit(spec_of("done"))
    world.until_final(name="done")
    world.set_script(steps=500)
    world.submit(spec_of("one"))
    world.submit(spec_of("two"))
    assert world.commands.pause({"all": True}) == {"jobs": ["one", "two"]}
    world.until_final(name="one")
    world.until_final(name="two")
    assert world.job("done").state == "finished"
    world.assert_books()


def test_a_quote_rents_and_writes_nothing(world: World) -> None:
    """It says the price, the most that it can cost, and who enforces it."""
    plan = world.commands.quote({"spec": spec_of().to_json()})
    assert plan["price_yuan_per_hour"] == "36.00"
    assert plan["worst_case_yuan"] == "5.00"
    unseen = (
        "platform timer (read back; never seen to fire: `costguard doctor --provider fake --drill`)"
    )
    assert plan["enforcers"] == ["daemon", unseen, "agent"]
    with world.store.write() as session:
        keep_proof(session, "fake", Proof(1, 2))
    plan = world.commands.quote({"spec": spec_of().to_json()})
    assert plan["enforcers"] == ["daemon", "platform timer (read back)", "agent"]
    assert world.rows(Event) == []
    assert world.cloud.routes("create") == []


def test_a_platform_without_a_price_refuses_the_job(world: World) -> None:
    """What cannot be priced cannot be capped."""
    world.cloud.fail("quote")
    with pytest.raises(UserError) as refused:
        world.submit()
    assert refused.value.code == "no_price"
