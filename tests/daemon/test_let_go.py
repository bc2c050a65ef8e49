"""What was taken unasked goes back where no card is free for it, and a new one is rented aloud."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.tariff import hold_micros
from costguard.daemon import passes, reuse
from costguard.providers.base import Busy, NoCapacity, Refused, Unclear
from costguard.store.database import StoreUnavailable
from costguard.store.ledger import Caps
from costguard.store.models import PowerInterval
from costguard.store.tariffs import tariff_of
from tests.daemon.test_reuse import finish_one
from tests.daemon.world import YUAN, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.providers.base import Quote

NO_CARD = NoCapacity("no card free on its host")
HOUR_DISK_MICROS = 360_000  # what a paused disk costs


@pytest.fixture
def dear(make_world: Callable[..., World]) -> World:
    """A platform where a paused disk costs 0.36 yuan an hour."""
    return make_world(disk_price=HOUR_DISK_MICROS)


def held_at_first(world: World, name: str = "first") -> int:
    """What is held for the job's disk before any of it was charged."""
    (row,) = (each for each in world.instances if each.job_id == world.job(name).id)
    return hold_micros(tariff_of(row), 3_600_000)


def disk_micros(world: World, name: str) -> int:
    """What the job was charged for disks in the end, corrections included."""
    (owner,) = {world.job(name).id}
    rows = world.rows(PowerInterval, PowerInterval.kind == "disk", PowerInterval.job_id == owner)
    ids = {row.id for row in rows}
    return sum(each.amount_micros for each in world.ledger() if each.interval_id in ids)


def test_it_goes_back_and_a_new_one_is_rented_aloud(dear: World) -> None:
    """One refused start; the first job has its instance again, and what was held for its disk."""
    finish_one(dear)
    dear.cloud.fail("start", NO_CARD)
    dear.submit(spec_of("second"))
    dear.until_final(name="second")
    assert dear.job("second").state == "finished"
    assert dear.job("first").state == "finished"
    assert [len(dear.cloud.routes(each)) for each in ("create", "start")] == [2, 1]
    first, second = dear.cloud.machines
    assert (len(first.runs), len(second.runs)) == (1, 1)
    (told,) = dear.events("reuse_ended")
    assert told.text == (
        "a new one is rented, at 36.00 yuan an hour, instead of m-1: no card free on its host"
    )
    assert ("warning", "second", told.text) in dear.notices
    assert [event.job_id for event in dear.events("handed_back")] == [dear.job("first").id]
    dear.run(130)
    charged = disk_micros(dear, "first")
    assert charged > 0
    assert dear.job("first").hold_micros == held_at_first(dear) - charged
    dear.assert_books()


def test_the_disk_is_charged_to_whom_it_was_all_along(dear: World) -> None:
    """Its one interval goes on; what the new job had been charged for it is taken back."""
    finish_one(dear)
    dear.cloud.fail("start", NO_CARD)
    dear.submit(spec_of("second"))
    dear.until(lambda: dear.events("reuse_ended"))
    (lent,) = (
        row
        for row in dear.rows(PowerInterval, PowerInterval.kind == "disk")
        if row.job_id == dear.job("second").id
    )
    assert lent.posted_micros == 0
    assert any(each.amount_micros > 0 for each in dear.ledger() if each.interval_id == lent.id)
    dear.until_final(name="second")
    dear.run(130)
    of_first = [
        row
        for row in dear.rows(PowerInterval, PowerInterval.kind == "disk")
        if row.job_id == dear.job("first").id
    ]
    assert [row.ended_ms for row in of_first] == [None]
    dear.assert_books()


def test_asked_for_it_waits_for_a_card(world: World) -> None:
    """`reuse = true` is a wish for this one: nothing is rented, however long that takes."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD, times=3)
    world.submit(spec_of("second", wish={"reuse": True}))
    world.until_final(within_s=400, name="second")
    assert world.job("second").state == "finished"
    assert len(world.cloud.machines) == 1
    assert not world.events("reuse_ended")


def test_what_it_has_run_on_is_its_own_and_waited_for(world: World) -> None:
    """After a pause there is something of the job's on that disk."""
    finish_one(world)
    world.set_script(steps=500)
    world.submit(spec_of("second"))
    world.until_state("training", name="second")
    world.commands.pause({"job": "second"})
    world.until_final(name="second")
    world.cloud.fail("start", NO_CARD)
    world.commands.resume({"job": "second"})
    world.until_state("waiting_capacity", name="second")
    world.run(120)
    assert world.job("second").state == "waiting_capacity"
    assert len(world.cloud.machines) == 1


@pytest.mark.parametrize(
    ("kill_at", "inside"),
    # 53 points to the moment when it goes back and 58 more to the end; 79 and 86 with commits'.
    [
        *((at, False) for at in (*range(2, 46, 6), *range(46, 62, 2))),
        *((at, True) for at in range(70, 94, 3)),
    ],
)
def test_a_daemon_killed_at_any_point_rents_one_and_keeps_one(
    make_world: Callable[..., World], kill_at: int, *, inside: bool
) -> None:
    """Between letting go and the create call, too: one new instance, and the old one where it was.

    A kill between a call and its answer may leave a second instance; it is found and stopped.
    """
    world = make_world(disk_price=HOUR_DISK_MICROS)
    finish_one(world)
    world.cloud.fail("start", NO_CARD)
    world.inside_commits = inside
    world.submit(spec_of("second", yuan=20))
    world.kill_at = world.points + kill_at
    world.until_final(within_s=200, name="second")
    assert world.job("second").state == "finished"
    assert world.job("first").state == "finished"
    assert len(world.cloud.machines) == len(world.cloud.routes("create")) == 2
    assert len(world.events("reuse_ended")) == 1
    assert world.pending("first") == world.pending("second") == 0
    world.run(70)
    assert world.job("first").hold_micros == held_at_first(world) - disk_micros(world, "first")
    world.assert_books()


def test_a_restart_while_it_waits_learns_it_anew(world: World) -> None:
    """That the start was refused is known to the process alone: the next try tells it again."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD)
    world.submit(spec_of("second"))
    world.until(lambda: world.cloud.routes("start"))
    world.restart()
    world.until_final(within_s=200, name="second")
    assert len(world.cloud.routes("start")) == 2
    assert len(world.cloud.machines) == 2
    assert world.job("first").state == world.job("second").state == "finished"


def test_what_the_start_had_reserved_is_given_back_before_the_new_grant(world: World) -> None:
    """The new instance has a lease of its own; none stands open from the one that was let go."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD)
    world.submit(spec_of("second"))
    world.until_state("training", name="second")
    job_id = world.job("second").id
    entries = [each for each in world.ledger() if each.job_id == job_id and each.lease_id]
    let_go_of, new = sorted({entry.lease_id for entry in entries if entry.lease_id})
    settled = next(each.id for each in entries if each.kind == "settle")
    assert all(each.id <= settled for each in entries if each.lease_id == let_go_of)
    assert all(each.id > settled for each in entries if each.lease_id == new)


def test_nothing_is_let_go_before_what_was_seen_is_charged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The books could not take this pass's look: the instance stays until they could."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD)
    world.submit(spec_of("second"))
    world.until(lambda: world.cloud.routes("start"))

    def full(*_: Any) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(passes, "record_pass", full)
        world.run(10)
        assert not world.events("reuse_ended")
    world.until(lambda: world.events("reuse_ended"))


def test_of_two_new_jobs_the_second_rents_at_once(world: World) -> None:
    """The one instance is spoken for from the first submission on."""
    finish_one(world)
    world.submit(spec_of("second"))
    quote = world.commands.quote({"spec": spec_of("third").to_json()})
    assert "paused since first" not in "\n".join(quote["lines"])
    world.submit(spec_of("third"))
    world.until_final(name="second")
    world.until_final(name="third")
    assert len(world.cloud.machines) == len(world.cloud.routes("create")) == 2
    assert world.job("second").state == world.job("third").state == "finished"
    assert not world.events("reuse_ended")
    world.assert_books()


@pytest.mark.parametrize("asked", [None, True])
def test_of_two_that_were_promised_one_the_second_rents_aloud(
    world: World, monkeypatch: pytest.MonkeyPatch, *, asked: bool | None
) -> None:
    """Two submissions at the very same moment; one that no longer can be had is not waited for."""
    finish_one(world)
    monkeypatch.setattr(reuse, "_claimed", lambda session: set())
    world.set_script(steps=20, adapter=True)
    for name in ("second", "third"):
        world.submit(spec_of(name, wish={"reuse": asked}))
    world.until_final(name="second")
    world.until_final(name="third")
    assert len(world.cloud.machines) == 2
    (told,) = world.events("reuse_ended")
    assert told.text.endswith("m-1 is driven by the job second")
    assert world.job("second").state == world.job("third").state == "finished"


def test_an_earlier_job_that_is_needed_again_meanwhile_keeps_it(world: World) -> None:
    """A person looks into it in the very moment: it is theirs, and the new job rents."""
    finish_one(world)
    world.submit(spec_of("second"))
    world.commands.visit({"job": "first", "purpose": "shell", "length_ms": 60_000})
    world.until_final(name="second")
    (told,) = world.events("reuse_ended")
    assert "driven by the job first" in told.text
    assert world.job("second").state == "finished"


def test_what_has_vanished_meanwhile_is_not_waited_for(world: World) -> None:
    """Deleted in the console between the submission and the first look."""
    finish_one(world)
    world.submit(spec_of("second"))
    world.cloud.vanish(world.cloud.machines[0])
    world.until_final(name="second")
    assert world.job("second").state == "finished"
    assert len(world.cloud.machines) == 2
    (told,) = world.events("reuse_ended")
    assert "is not there any more" in told.text


def test_where_the_caps_do_not_bear_both_it_waits(dear: World) -> None:
    """The first disk's share was free while it was lent; another lease has it when it goes back."""
    finish_one(dear)
    held = dear.job("first").hold_micros
    dear.cloud.fail("start", NO_CARD, times=3)
    dear.submit(spec_of("second"))
    dear.until(lambda: dear.events("handed_over"))
    with dear.store.read() as session:
        spent = sum(each.amount_micros for each in dear.ledger() if each.kind == "charge")
    del session
    dear.caps = Caps(month_micros=spent + 2 * held + YUAN // 10)
    dear.until(lambda: dear.events("reuse_waits"))
    assert dear.events("reuse_waits")[0].text == (
        "it waits for m-1: the budget does not bear a new one beside it"
    )
    assert dear.job("first").state == "released"
    assert dear.pending("second") == 0
    dear.caps = Caps()
    dear.cloud.heal()
    dear.until_final(within_s=400, name="second")
    assert dear.job("second").state == "finished"
    assert len(dear.cloud.machines) == 1
    dear.assert_books()


def without_stock(world: World, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The platform says that it has none, or whatever else of what it would rent."""
    quote = world.cloud.quote

    def told(gpu: str | None) -> Quote:
        return replace(quote(gpu), **changes)

    monkeypatch.setattr(world.cloud, "quote", told)


def test_where_no_new_one_is_free_either_it_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To let go would only lose the place; it takes whichever comes first."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD, times=1)
    world.submit(spec_of("second"))
    without_stock(world, monkeypatch, in_stock=False)
    world.until(lambda: world.events("reuse_waits"))
    assert "no card is free for a new one either" in world.events("reuse_waits")[0].text
    world.until_final(within_s=200, name="second")
    assert world.job("second").state == "finished"
    assert len(world.cloud.machines) == 1
    world.assert_books()


def test_a_new_one_above_the_price_limit_is_not_rented(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_price_yuan_per_hour` holds for what is rented instead, too."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD, times=1)
    limit = {"max_price_micros_per_hour": 36 * YUAN}
    world.submit(spec_of("second", wish=limit))
    tariff = world.cloud.quote(None).tariff
    dearer = replace(tariff, price_micros_per_hour=37 * YUAN)
    without_stock(world, monkeypatch, tariff=dearer)
    world.until(lambda: world.events("reuse_waits"))
    assert "a new one costs 37.00 yuan an hour" in world.events("reuse_waits")[0].text
    world.until_final(within_s=200, name="second")
    assert len(world.cloud.machines) == 1


def test_a_new_one_without_a_price_is_asked_for_again(world: World) -> None:
    """What it would cost has to be said first."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD)
    world.submit(spec_of("second"))
    world.cloud.fail("quote", Unclear("500"))
    world.until(lambda: world.events("reuse_waits"))
    assert "a new one has no price now" in world.events("reuse_waits")[0].text
    world.cloud.heal()
    world.cloud.fail("start", NO_CARD)
    world.until_final(within_s=200, name="second")
    assert world.job("second").state == "finished"
    assert len(world.cloud.machines) == 2


def test_one_that_cannot_be_started_at_all_is_let_go_too(world: World) -> None:
    """Taken unasked, it must not end a job that a new instance would have run."""
    finish_one(world)
    world.cloud.fail("start", Refused("its image was removed"))
    world.submit(spec_of("second"))
    world.until_final(name="second")
    assert world.job("second").state == "finished"
    assert world.job("first").state == "finished"
    assert world.events("reuse_ended")[0].text.endswith("instead of m-1: its image was removed")


def test_a_refusal_with_no_way_out_ends_the_job_as_ever(world: World) -> None:
    """No new one either: the platform's word is the verdict, and nothing is left reserved."""
    finish_one(world)
    world.cloud.fail("start", Refused("its image was removed"))
    world.submit(spec_of("second"))
    world.cloud.fail("quote", Unclear("500"))
    world.until_final(name="second")
    job = world.job("second")
    assert (job.state, job.pause_reason) == ("paused", "platform")
    assert job.verdict_text == "the start was refused: its image was removed"
    assert world.pending("second") == 0


def test_one_that_is_only_busy_is_waited_for(world: World) -> None:
    """Another operation is under way there: that is over soon."""
    finish_one(world)
    world.cloud.fail("start", Busy("being saved", 5), times=1)
    world.submit(spec_of("second"))
    world.until_final(within_s=200, name="second")
    assert len(world.cloud.machines) == 1
    assert world.job("second").state == "finished"


def test_one_that_only_queues_for_a_card_is_called_off_and_let_go(world: World) -> None:
    """Vast's way to say that there is none: the stop is seen before it goes back."""
    finish_one(world)
    world.cloud.habits.queues = True
    world.submit(spec_of("second"))
    world.until(lambda: len(world.cloud.machines) == 2, 200)
    world.until_final(within_s=200, name="second")
    assert world.job("first").state == world.job("second").state == "finished"
    assert not world.cloud.charged


def test_a_release_asked_for_meanwhile_is_done_once_it_is_back(world: World) -> None:
    """It was said of the job that had it; the new job is not hindered."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD)
    world.submit(spec_of("second"))
    world.until(lambda: world.events("handed_over"))
    world.commands.release({"job": "first"})
    world.until_final(name="second")
    world.until(lambda: world.cloud.machines[0].released_ms is not None)
    assert world.job("first").state == "released"
    assert world.job("second").state == "finished"


def test_a_pause_while_it_is_lent_keeps_it_with_the_new_job(world: World) -> None:
    """Off, proven; and a resume tries it again, and lets go of it then."""
    finish_one(world)
    world.cloud.fail("start", NO_CARD)
    world.submit(spec_of("second"))
    world.until(lambda: world.cloud.routes("start"))
    world.commands.pause({"job": "second"})
    world.until_final(name="second")
    assert world.job("second").pause_reason == "user"
    world.commands.resume({"job": "second"})
    world.until_final(within_s=200, name="second")
    assert world.job("second").state == "finished"
    assert world.job("first").state == "finished"
    assert len(world.cloud.machines) == 2
