"""`after_finish = "release"`: only what is home, whole, and off may lose its disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.daemon.world import World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from costguard.core.spec import JobSpec
    from costguard.store.models import Job

WISH = {"after_finish": "release"}


def wanted(home: Path) -> JobSpec:
    """A job whose result comes home to a real folder, and whose disk may go then."""
    return replace(spec_of(wish=WISH, expects_adapter=True), pull_to=str(home))


def finish(world: World, home: Path) -> Job:
    """The job, finished, and the daemon at rest."""
    world.set_script(steps=3, adapter=True)
    world.submit(wanted(home))
    world.until_final()
    world.run(3)
    return world.job()


def test_a_result_that_is_home_and_whole_lets_the_disk_go(world: World, tmp_path: Path) -> None:
    """Finished, seen stopped, hashed where it lies, and only then given back."""
    job = finish(world, tmp_path)
    assert (job.state, job.pause_reason, job.hold_micros) == ("released", "finished", 0)
    assert len(world.cloud.routes("release")) == 1
    kinds = [event.kind for event in world.events("stop_confirmed", "result_home", "released")]
    assert kinds == ["stop_confirmed", "result_home", "released"]
    world.assert_books()


def not_home(world: World, home: Path) -> None:
    """The download failed for as long as it was tried."""
    world.line.pull_fails = True


def spoilt(world: World, home: Path) -> None:
    """It came home, and something changed it before the disk was to go."""
    path = home / "job" / "adapter" / "adapter.safetensors"

    def spoil(what: str) -> None:
        if path.exists():
            path.write_bytes(b"damaged!")

    world.on_point = spoil


def moved_away(world: World, home: Path) -> None:
    """It came home, and is there no more."""
    path = home / "job" / "adapter" / "adapter.safetensors"
    world.on_point = lambda what: path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (not_home, "did not come home"),
        (spoilt, "is missing, or is not what was downloaded"),
        (moved_away, "is missing, or is not what was downloaded"),
    ],
)
def test_a_result_that_is_not_verified_keeps_the_disk_and_says_why(
    harm: Callable[[World, Path], None], why: str, world: World, tmp_path: Path
) -> None:
    """Said once, and nothing is deleted, however long it goes on."""
    harm(world, tmp_path)
    assert finish(world, tmp_path).state == "finished"
    world.run(70)
    assert world.cloud.routes("release") == []
    kept = world.events("disk_kept")
    assert len(kept) == 1
    assert why in kept[0].text
    world.assert_books()


def test_it_goes_once_a_pull_has_brought_home_what_was_missing(
    world: World, tmp_path: Path
) -> None:
    """What was asked for in the job file is still asked for."""
    world.line.pull_fails = True
    finish(world, tmp_path)
    world.line.pull_fails = False
    world.restart()
    world.commands.pull({"job": "job"})
    world.until_state("released", within_s=120)
    assert len(world.events("disk_kept")) == 1
    world.assert_books()


def test_a_job_without_an_adapter_keeps_its_disk(world: World, tmp_path: Path) -> None:
    """A command of the user's own: which of its files is the result nobody knows."""
    world.set_script(steps=3)
    world.submit(replace(spec_of(wish=WISH), pull_to=str(tmp_path)))
    world.until_final()
    world.run(70)
    assert world.job().state == "finished"
    assert "left no adapter" in world.events("disk_kept")[0].text


@pytest.mark.parametrize("script", [{"exit_code": 70}, {"steps": 500}])
def test_what_did_not_finish_keeps_its_disk(
    script: dict[str, int], world: World, tmp_path: Path
) -> None:
    """Failed, or out of money: its checkpoints are there."""
    world.set_script(**{"steps": 3, "adapter": True, **script})
    world.submit(replace(wanted(tmp_path), cap_micros=500_000))
    world.until_final()
    world.run(70)
    assert world.job().state in ("failed", "paused")
    assert world.cloud.routes("release") == []


def test_a_user_who_paused_it_keeps_the_disk(world: World, tmp_path: Path) -> None:
    """`pause` says that the disk is kept."""
    world.line.pull_ms = 3_000
    world.set_script(steps=3, adapter=True)
    world.submit(wanted(tmp_path))
    world.until(lambda: world.job().pause_reason == "finished")
    world.commands.pause({"job": "job"})
    world.until_final()
    world.run(130)
    assert world.job().state == "finished"
    assert world.cloud.routes("release") == []


@pytest.mark.parametrize("kill_at", [2, 6, 10, 15])
def test_a_daemon_killed_while_it_gives_back_releases_once_home(
    kill_at: int, world: World, tmp_path: Path
) -> None:
    """At whichever commit or call it dies: one release, after the proof, books right."""
    world.set_script(steps=3, adapter=True)
    world.submit(wanted(tmp_path))
    world.until(lambda: world.job().pause_reason == "finished")
    world.kill_at = world.points + kill_at
    world.until_state("released", within_s=120)
    assert (tmp_path / "job" / "adapter" / "adapter.safetensors").exists()
    world.assert_books()
