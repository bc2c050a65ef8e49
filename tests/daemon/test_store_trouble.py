from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from costguard.store import database
from tests.daemon.world import FINAL, spec_of

if TYPE_CHECKING:
    from tests.daemon.world import World


@pytest.mark.parametrize("reads_too", [False, True])
def test_with_the_database_broken_a_finished_run_is_stopped(reads_too: bool, world: World) -> None:
    """Stopping is exempt from "intent first"; the books are brought up to date later."""
    world.set_script(steps=4)
    machine = world.start_training()
    world.store.is_broken, world.store.breaks_reads = True, reads_too
    world.until(lambda: machine.stopped_ms is not None, within_s=15)
    stopped_ms = world.clock.true_ms
    assert world.job().state not in FINAL
    assert world.alarms("stopping without a record")
    world.run(20)
    world.store.is_broken = world.store.breaks_reads = False
    world.until_final(within_s=10)
    assert (world.job().state, world.job().pause_reason) == ("finished", "finished")
    assert world.clock.true_ms >= stopped_ms + 20_000
    assert world.job().last_seq == len(world.agent.journal)
    world.assert_books()


def test_with_the_database_broken_the_leases_end_is_kept(world: World) -> None:
    """No renewal can be written, so none is given: saved and stopped in time."""
    world.set_script(steps=500)
    machine = world.start_training()
    lease = world.lease
    assert lease is not None
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    world.store.is_broken = True
    world.until(lambda: machine.stopped_ms is not None, within_s=60)
    assert machine.stopped_ms is not None
    assert machine.stopped_ms <= lease.end_utc_ms + lease.latency_ms
    assert world.agent.exited_ms is not None
    world.store.is_broken = False
    world.until_final(within_s=10)
    world.assert_books()


def test_with_the_database_broken_from_the_create_on_nothing_is_lost(world: World) -> None:
    """Rented and never recorded as running: stopped by the lease, charged when it can be."""
    world.set_script(steps=500)
    world.submit()
    world.tick()
    assert world.cloud.machines
    world.store.is_broken = True
    world.until(lambda: world.cloud.machines[0].stopped_ms is not None, within_s=60)
    world.run(10)
    world.store.is_broken = False
    world.until_final(within_s=20)
    assert world.posted() > 0
    world.assert_books()


def test_without_a_database_nothing_is_rented(world: World) -> None:
    """What cannot be reserved cannot begin."""
    world.submit()
    world.store.is_broken = True
    world.run(10)
    assert world.cloud.routes("create") == []
    world.store.is_broken = False
    world.set_script(steps=3)
    world.until_final()
    assert world.job().state == "finished"


@pytest.mark.parametrize("write", range(12))
def test_a_single_write_that_fails_changes_nothing(write: int, world: World) -> None:
    """Whichever it is, from the first lease on: retried, and the end is the same."""
    world.set_script(steps=3)
    world.submit()
    world.store.fails_after, world.store.fails_writes = write, 1
    world.until_final()
    assert world.store.fails_writes == 0
    assert world.job().state == "finished"
    assert len(world.cloud.machines) == 1
    world.assert_books()


def test_a_disk_that_is_really_full_keeps_nothing_running(world: World) -> None:
    """SQLite itself says so, of some writes and not of others: the books come first all the same.

    A final state that still fitted into the file, while the charges did not, would give back
    money that was already spent.
    """
    world.set_script(steps=20)
    machine = world.start_training()
    world.store.limit_pages(full=True)
    world.until(lambda: machine.stopped_ms is not None, within_s=60)
    assert world.alarms("full")
    world.run(5)
    assert world.job().state not in FINAL
    world.store.limit_pages(full=False)
    world.until_final(within_s=10)
    assert world.job().state == "finished"
    world.assert_books()


def test_a_database_that_somebody_locks_is_waited_for_and_guarded_without(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the write lock: stopped all the same, recorded when it lets go."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 10)
    world.restart()
    world.set_script(steps=5)
    machine = world.start_training()
    with closing(sqlite3.connect(world.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        world.until(lambda: machine.stopped_ms is not None, within_s=30)
        assert world.alarms("locked")
        other.execute("ROLLBACK")
    world.until_final(within_s=10)
    assert world.job().state == "finished"
    world.assert_books()


def test_messages_are_acknowledged_only_once_they_are_stored(world: World) -> None:
    """What the database did not take, the agent still has."""
    world.set_script(steps=30)
    world.start_training()
    world.run(2)
    world.store.is_broken = True
    stored = world.job().last_seq
    world.run(5)
    assert max(m["seq"] for m in world.link.sent if m["t"] == "ack") == stored
    world.store.is_broken = False
    world.tick()
    assert max(m["seq"] for m in world.link.sent if m["t"] == "ack") > stored


def test_a_restart_with_the_database_full_still_stops(world: World) -> None:
    """Memory is rebuilt by reading; nothing of the way to the stop call needs a write."""
    world.set_script(steps=500)
    machine = world.start_training(spec_of())
    world.commands.pause({"job": "job"})
    world.store.is_broken = True
    world.restart()
    world.store.is_broken = True
    world.until(lambda: machine.stopped_ms is not None, within_s=20)
    world.store.is_broken = False
    world.until_final()
    assert world.job().pause_reason == "user"
    world.assert_books()
