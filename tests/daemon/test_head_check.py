from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from costguard.daemon.head_check import check_head
from costguard.store.head import HeadState, head_path

if TYPE_CHECKING:
    from tests.daemon.world import World


def test_a_first_start_begins_a_head_and_says_nothing(world: World) -> None:
    """There is nothing that could have been lost."""
    assert check_head(world.context) is HeadState.MISSING
    assert head_path(world.database).exists()
    assert world.alarms() == []


def test_a_restart_after_a_kill_is_in_order(world: World) -> None:
    """The head may lag by what was committed last."""
    check_head(world.context)
    lagging = head_path(world.database).read_text()
    world.set_script(steps=500)
    world.start_training()
    head_path(world.database).write_text(lagging)
    world.restart()
    assert check_head(world.context) is HeadState.BEHIND
    assert check_head(world.context) is HeadState.SAME
    assert world.alarms() == []


def test_a_lost_head_is_said_aloud_once(world: World) -> None:
    """A person may want to know why."""
    world.set_script(steps=500)
    world.start_training()
    head_path(world.database).unlink()
    world.restart()
    assert check_head(world.context) is HeadState.MISSING
    assert check_head(world.context) is HeadState.SAME
    assert len(world.alarms("ledger.head was missing")) == 1
    assert len(world.events("ledger_head")) == 1


def test_a_cut_tail_is_said_aloud_at_every_start_and_the_guarding_goes_on(world: World) -> None:
    """The instance has to be stopped in time, whatever happened to the books."""
    world.set_script(steps=500)
    machine = world.start_training()
    with closing(sqlite3.connect(world.database)) as plain, plain:
        plain.execute("DROP TRIGGER ledger_no_delete")
        plain.execute("DELETE FROM ledger WHERE id = (SELECT max(id) FROM ledger)")
    for starts in (1, 2):
        world.kill()
        world.boot()
        assert check_head(world.context) is HeadState.CUT
        assert len(world.alarms("ARE GONE")) == starts
    world.commands.pause({"job": "job"})
    world.passes_may_fail = True
    world.until(lambda: machine.stopped_ms is not None, within_s=30)


def test_a_database_that_cannot_be_read_keeps_no_daemon_from_starting(world: World) -> None:
    """It is said, and looked at again at the next start."""
    world.store.breaks_reads = True
    assert check_head(world.context) is HeadState.UNREADABLE
    assert world.alarms("could not be compared")
