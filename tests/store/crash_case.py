"""A scripted life of one job, played by a daemon that is killed at one point of it.

As a program: `crash_case.py TEMPLATE` reads lines `FOLDER POINT` and for each forks a process that
plays the life in FOLDER up to that point and there gets SIGKILL: no handler, no flush, no close.
It answers with how the process ended. One program for all of them, because starting Python anew
takes longer than the life.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from tests.daemon.world import World, spec_of

NAMES = ("costguard.db", "costguard.db-wal", "costguard.db-shm", "ledger.head")
SECONDS_MAX = 60


def new_world(folder: Path, template: Path) -> World:
    """A world whose commits have points inside, and whose platform fails in the usual ways."""
    world = World(folder, template, disk_price=36_000)
    world.store.check_head()  # as a daemon does at its start
    world.inside_commits = True
    world.cloud.fail("create", times=1, after=True)
    world.cloud.fail("stop", times=1, after=True)
    return world


def play(world: World) -> None:
    """Submit, train, bring the adapter home, pause: to the end, whatever happens on the way."""
    world.set_script(steps=3, adapter=True, checkpoint_at=2, prepare_ms=0)
    submit(world)
    live_on(world)


def submit(world: World) -> None:
    """Hand the job over; asked again with the same key, it is answered and not done twice."""
    world.submit(spec_of(expects_adapter=True))


def live_on(world: World) -> None:
    """Seconds go by until the job has ended; not `world.tick`, which would start it anew."""
    for _ in range(SECONDS_MAX):
        if world.job().state == "finished":
            return
        world.pass_time(1_000)
        world.work()
    raise AssertionError("the job did not come to its end")


def digest(database: Path) -> str:
    """What the database says, row by row; equal for two that say the same."""
    with closing(sqlite3.connect(database)) as plain:
        tables = plain.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = [
            repr((name, row))
            for (name,) in tables
            for row in plain.execute(f"SELECT * FROM {name}").fetchall()
        ]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def die_at(folder: Path, point: int, template: Path) -> None:
    """Play up to `point`, and be killed there."""
    world = new_world(folder, template)

    def strike(_what: str) -> None:
        if world.points == point:
            os.kill(os.getpid(), signal.SIGKILL)

    world.on_point = strike
    play(world)


def main(template: Path) -> int:
    """Answer each line with the number of the signal that ended its process."""
    for line in sys.stdin:
        folder, _, point = line.rstrip("\n").rpartition(" ")
        child = os.fork()
        if child == 0:
            die_at(Path(folder), int(point), template)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
