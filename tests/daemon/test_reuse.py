"""A new job on the paused instance of its project, where it wants that and nobody needs it."""

from __future__ import annotations

from typing import Any

import pytest

from costguard.store.models import Artifact
from tests.daemon.world import World, spec_of


def finish_one(world: World, **script: Any) -> str:
    """A job that has finished, its result at home; the id of its paused instance."""
    world.set_script(**{"steps": 3, "adapter": True, **script})
    world.submit(spec_of("first"))
    world.until_final(name="first")
    return world.cloud.machines[0].id


def lines(world: World, **wish: Any) -> str:
    """What the plan of a second job says."""
    spec = spec_of("second", wish=wish)
    return "\n".join(world.commands.quote({"spec": spec.to_json()})["lines"])


def test_a_second_job_goes_on_on_the_paused_instance(world: World) -> None:
    """Nothing is created; the first job lets go of it, and both are charged what they used."""
    machine = finish_one(world)
    assert f"on {machine}, paused since first" in lines(world, reuse=True)
    world.submit(spec_of("second", wish={"reuse": True}))
    world.until_final(name="second")
    assert len(world.cloud.machines) == 1
    assert len(world.cloud.routes("create")) == 1
    assert world.job("second").state == "finished"
    assert world.job("first").state == "released"
    assert world.events("handed_over")


def test_where_it_is_not_asked_for_it_is_only_said(world: World) -> None:
    """That host may have no free card tonight: a person decides."""
    machine = finish_one(world)
    assert f"{machine}, paused since first, has its model" in lines(world)
    world.submit(spec_of("second"))
    world.until_final(name="second")
    assert len(world.cloud.machines) == 2
    assert world.job("first").state == "finished"


@pytest.mark.parametrize("wish", [{"image": "another"}, {"gpu": "another"}, {"gpu_count": 2}])
def test_another_machine_than_is_asked_for_is_not_used(world: World, wish: dict[str, Any]) -> None:
    """The same card and image, or a new one."""
    finish_one(world)
    assert "paused since" not in lines(world, reuse=True, **wish)
    assert "a new one is rented" in lines(world, reuse=True, **wish)


def test_what_is_needed_still_is_left_alone(world: World) -> None:
    """A result that is not at home; an instance that the platform has deleted meanwhile."""
    machine = finish_one(world)
    with world.store.write() as session:
        row = session.query(Artifact).first()
        assert row is not None
        pulled, row.pulled_ms = row.pulled_ms, None
    assert "paused since" not in lines(world, reuse=True)
    with world.store.write() as session:
        row = session.query(Artifact).first()
        assert row is not None
        row.pulled_ms = pulled
        kind, row.kind = row.kind, "checkpoint"
    assert "paused since" not in lines(world, reuse=True), "what a command wrote is not known"
    with world.store.write() as session:
        row = session.query(Artifact).first()
        assert row is not None
        row.kind = kind
    world.cloud.machines.clear()
    assert f"{machine} cannot be used again, a new one is rented" in lines(world, reuse=True)
