"""A new job on the paused instance of its project, where it wants that and nobody needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.daemon.load import job_spec
from costguard.errors import UserError
from costguard.store.models import Artifact, Job
from tests.daemon.world import YUAN, World, spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from costguard.core.spec import JobSpec


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


def test_where_that_can_only_save_it_is_taken_unasked(world: World) -> None:
    """Said before, in the answer and in the books; nothing is created."""
    machine = finish_one(world)
    assert f"on {machine}, paused since first, with its model and environment" in lines(world)
    answer = world.submit(spec_of("second"))
    assert "it goes back and a new one is rented" in "\n".join(answer["lines"])
    world.until_final(name="second")
    assert len(world.cloud.machines) == len(world.cloud.routes("create")) == 1
    assert world.job("second").state == "finished"
    assert [event.text for event in world.events("reuse")] == [
        f"goes on on {machine}, paused since first"
    ]


def test_who_says_false_rents_a_new_one(world: World) -> None:
    """And is told nothing of it."""
    finish_one(world)
    assert "paused since" not in lines(world, reuse=False)
    world.submit(spec_of("second", wish={"reuse": False}))
    world.until_final(name="second")
    assert len(world.cloud.machines) == 2
    assert world.job("first").state == "finished"


def test_a_dearer_one_is_only_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its price where new ones have become cheaper; where none is free it is taken."""
    machine = finish_one(world)
    quote = world.cloud.quote("RTX 3090")
    cheaper = replace(quote, tariff=replace(quote.tariff, price_micros_per_hour=30 * YUAN))
    monkeypatch.setattr(world.cloud, "quote", lambda gpu: cheaper)
    why = "but costs 36.00 yuan an hour, a new one 30.00: reuse = true under [instance] takes it"
    assert f"{machine}, paused since first, has its model and environment, {why}" in lines(world)
    assert f"on {machine}, paused since first" in lines(world, reuse=True)
    monkeypatch.setattr(world.cloud, "quote", lambda gpu: replace(cheaper, in_stock=False))
    assert f"on {machine}, paused since first" in lines(world)


def test_one_above_the_price_limit_is_only_named(world: World) -> None:
    """Though a new one is no cheaper: the limit is the job's."""
    finish_one(world)
    assert "reuse = true" in lines(world, max_price_micros_per_hour=35 * YUAN)
    assert "reuse = true" not in lines(world, max_price_micros_per_hour=36 * YUAN)


def test_a_disk_that_is_to_be_kept_is_not_deleted_by_the_next_job(world: World) -> None:
    """Whose job file deletes what it ran on; and what is about to be deleted is not taken."""
    finish_one(world)
    assert "but this job would delete its disk" in lines(world, after_finish="release")
    with world.store.write() as session:
        job = session.get_one(Job, world.job("first").id)
        spec = job_spec(job)
        wish = replace(spec.instance, after_finish="release")
        job.spec_json = replace(spec, instance=wish).to_json()
    assert "paused since first" not in lines(world)
    with world.store.write() as session:
        session.get_one(Job, world.job("first").id).wish = "keep"
    assert "paused since first" in lines(world)


def of_model(name: str, model: str) -> JobSpec:
    """A job that trains this model."""
    spec = spec_of(name)
    argv = ("train", "--model_name_or_path", model)
    return replace(spec, runs=(replace(spec.runs[0], argv=argv),))


def test_another_model_has_to_be_asked_for(world: World) -> None:
    """It would have to be fetched, and lie beside the first: there may be no room for it."""
    finish_one(world)
    other = of_model("second", "qwen")
    told = "\n".join(world.commands.quote({"spec": other.to_json()})["lines"])
    assert "has its environment, but not this job's model" in told
    asked = replace(other, instance=replace(other.instance, reuse=True))
    told = "\n".join(world.commands.quote({"spec": asked.to_json()})["lines"])
    assert "with its environment; it waits" in told


def test_the_one_with_the_model_goes_before_a_newer_one(world: World) -> None:
    """Of two paused instances."""
    world.set_script(steps=3, adapter=True)
    for name, model in (("a", "qwen"), ("b", "llama")):
        world.submit(of_model(name, model))
        world.until_final(name=name)
    told = world.commands.quote({"spec": of_model("second", "qwen").to_json()})["lines"]
    assert "on m-1, paused since a" in "\n".join(told)


@pytest.mark.parametrize(("had", "fits"), [(None, False), (50, False), (100, True), (200, True)])
def test_a_smaller_disk_is_not_used(world: World, had: int | None, *, fits: bool) -> None:
    """What was asked for must be there; what the platform gives unasked is not known."""
    world.set_script(steps=3, adapter=True)
    world.submit(spec_of("first", wish={"data_disk_gb": had}))
    world.until_final(name="first")
    assert ("paused since first" in lines(world, data_disk_gb=100)) is fits


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


@pytest.mark.parametrize("do", ["resume", "pull", "shell"])
def test_the_earlier_job_says_who_has_its_instance_now(world: World, do: str) -> None:
    """Not that its disk is gone: that would be a fright, and not so."""
    finish_one(world)
    world.submit(spec_of("second"))
    world.until_final(name="second")
    with pytest.raises(UserError) as refused:
        if do == "shell":
            world.commands.visit({"job": "first", "purpose": "shell", "length_ms": 60_000})
        else:
            getattr(world.commands, do)({"job": "first"})
    assert refused.value.what == "the instance of first is the job second's now"
    world.commands.release({"job": "second"})
    world.until(lambda: world.job("second").state == "released")
    with pytest.raises(UserError, match="gone"):
        world.commands.pull({"job": "first"})


def test_what_went_on_on_a_paused_one_can_have_a_new_one_later(
    world: World, tmp_path: Path
) -> None:
    """No person named that machine: `resume --new-instance` rents, the old disk is kept."""
    finish_one(world)
    world.set_script(steps=500, checkpoint_at=3)
    world.submit(replace(spec_of("second"), pull_to=str(tmp_path)))
    world.until(lambda: world.job("second").last_seq and world.job("second").state == "training")
    world.commands.pause({"job": "second"})
    world.until_final(name="second")
    world.set_script(steps=3, adapter=True)
    world.commands.resume({"job": "second", "new_instance": True})
    world.until_final(within_s=200, name="second")
    assert world.job("second").state == "finished"
    assert len(world.cloud.machines) == len(world.cloud.routes("create")) == 2
