from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.store.models import LeaseRow
from costguard.store.restored import is_restored, mark_restored
from tests.daemon.world import World, spec_of

if TYPE_CHECKING:
    from tests.daemon.fake_cloud import Machine


def restore(world: World) -> None:
    """As if the database had been put back just now."""
    with world.store.write() as session:
        mark_restored(session, world.clock.now().utc_ms)


def restored(world: World) -> bool:
    """Whether it still counts as put back."""
    with world.store.read() as session:
        return is_restored(session)


def test_a_restored_database_grants_nothing_until_every_account_was_listed(world: World) -> None:
    """What may run there since is not known to it, and counts against the same caps."""
    restore(world)
    world.set_script(steps=3)
    world.submit()
    world.run(5)
    assert world.rows(LeaseRow) == []
    assert world.cloud.machines == []
    assert any("was restored" in text for _, _, text in world.notices)
    world.chores.watch_strays()
    assert not restored(world)
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_an_account_that_cannot_be_listed_keeps_all_grants_back(world: World) -> None:
    """However long that takes."""
    restore(world)
    world.cloud.fail("list")
    world.submit()
    world.chores.watch_strays()
    world.run(5)
    assert restored(world)
    assert world.cloud.machines == []


def test_what_was_rented_after_the_backup_is_found_and_stopped_first(world: World) -> None:
    """The restored books know its job, and not the instance: it is put under guard."""
    world.set_script(steps=3)
    world.submit()
    world.until_final()
    stray: Machine = world.cloud.add("costguard-test-1-9")
    restore(world)
    world.chores.watch_strays()
    world.submit(spec_of("next"))
    world.until(lambda: stray.stopped_ms is not None, within_s=60)
    world.until_final(name="next")
    world.assert_books()
