from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from costguard.store.database import read_only_session
from costguard.store.head import head_path, read_head
from costguard.store.verify import verify
from tests.daemon.world import Killed
from tests.store.crash_case import NAMES, digest, live_on, new_world, play, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon.world import World

SHARES = 4  # of the points, so that several cores can take one each
STRIDE = SHARES if os.environ.get("COSTGUARD_TEST_FULL") else 3 * SHARES + 1
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checked() -> None:
    """These lives check their books after each death; every call would cost too much."""


@pytest.fixture
def killer(empty_database: Path) -> Iterator[subprocess.Popen[str]]:
    """The program that plays lives up to a point, and dies there."""
    script = ROOT / "tests" / "store" / "crash_case.py"
    with subprocess.Popen(
        [sys.executable, str(script), str(empty_database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def kill_at(killer: subprocess.Popen[str], folder: Path, point: int) -> None:
    """Have a daemon play its life in `folder` up to the point and be killed by SIGKILL there."""
    folder.mkdir()
    assert killer.stdin is not None
    assert killer.stdout is not None
    killer.stdin.write(f"{folder} {point}\n")
    killer.stdin.flush()
    assert killer.stdout.readline().strip() == str(int(signal.SIGKILL)), f"point {point}"


def whole_life(folder: Path, template: Path) -> tuple[list[str], list[str]]:
    """Every point of a life that nobody disturbs, and what the database says after each commit."""
    folder.mkdir()
    world = new_world(folder, template)
    points: list[str] = []
    states = [digest(world.database)]

    def note(what: str) -> None:
        points.append(what)
        if what == "written":
            states.append(digest(world.database))

    world.on_point = note
    play(world)
    world.assert_books()
    world.kill()
    return points, states


def lived_up_to(folder: Path, template: Path, point: int) -> World:
    """A world whose daemon has just died at that point: its platform is as the killed one's was."""
    folder.mkdir()
    world = new_world(folder, template)
    world.kill_at = point
    with pytest.raises(Killed):
        play(world)
    world.kill_at = None
    world.kill()
    return world


@pytest.mark.parametrize("share", range(SHARES))
def test_a_kill_at_any_point_leaves_the_books_before_or_after(
    share: int,
    killer: subprocess.Popen[str],
    empty_database: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGKILL inside, before and after every commit and every call to the platform.

    Reopened, the database says exactly what it said before or after the commit in hand; it is
    whole by SQLite's own checks and `ledger verify`; and the life goes on to its right end.
    """
    points, states = whole_life(tmp_path / "whole", empty_database)
    chosen = range(1 + share, len(points) + 1, STRIDE)
    for point in chosen:
        killed, lives = tmp_path / f"killed-{point}", tmp_path / f"lives-{point}"
        kill_at(killer, killed, point)
        world = lived_up_to(lives, empty_database, point)
        for name in NAMES:
            if (killed / name).exists():
                shutil.copy(killed / name, lives / name)
        commits = sum(what == "written" for what in points[: point - 1])
        is_after = points[point - 1] in ("committed", "written")
        assert digest(world.database) == states[commits + is_after], (point, points[point - 1])
        assert_sound(world.database)
        world.boot()
        world.on_point = lambda _what: None
        submit(world)
        live_on(world)
        world.assert_books()
        assert len(world.cloud.machines) == 1
        world.kill()
        assert_sound(world.database)
    assert len(points) > 100
    kinds = dict(Counter(what.partition(" ")[0] for what in points))
    with capsys.disabled():
        sys.stdout.write(f"\nkilled at {len(chosen)} of {len(points)} crash points {kinds}\n")


def assert_sound(database: Path) -> None:
    """By SQLite's checks and ours; and the head outside knows of nothing that was lost."""
    kept = read_head(head_path(database))
    with read_only_session(database) as session:
        assert verify(session, kept).findings == ()
