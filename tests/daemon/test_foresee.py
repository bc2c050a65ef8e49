from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costguard.core.spec import Stage
from tests.daemon.world import YUAN, World, spec_of

if TYPE_CHECKING:
    from costguard.core.spec import JobSpec


def forecast(world: World) -> dict[str, Any]:
    """The last forecast that was written down."""
    text = world.job().forecast_json
    assert text is not None
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_running_job_has_a_forecast_that_holds(world: World) -> None:
    """120 steps of a second at 0.01 yuan: the likely figure is near what it really comes to."""
    world.set_script(steps=120)
    machine = world.start_training()
    world.run(30)
    found = forecast(world)
    low, likely, high = found["total_micros"]
    assert low < likely < high
    assert (found["fit"], found["evaluations"]) == ("fits", "nothing")
    world.until_final(within_s=200)
    real = world.cloud.machine_micros(machine)
    assert low <= real <= high
    assert abs(likely - real) < real / 10


def test_what_will_not_fit_is_said_while_there_is_time_with_the_step(world: World) -> None:
    """At the tenth step, not at the last one; and where it will end is where it ends."""
    world.set_script(steps=400)
    world.start_training(spec_of(yuan=1.5))
    world.until(lambda: world.events("will_not_fit"), within_s=30)
    said = world.events("will_not_fit")[0]
    step = json.loads(said.data_json)["bites_at_step"]
    assert f"near step {step}" in said.text
    assert any("will not fit" in text for level, _, text in world.notices if level == "warning")
    world.until_final(within_s=300)
    assert world.job().pause_reason == "budget"
    assert abs(world.agent.steps_done - step) <= 10
    assert len(world.events("will_not_fit")) == 1


def test_a_raised_cap_takes_the_bad_news_back(world: World) -> None:
    """Once it is sure to fit."""
    world.set_script(steps=200)
    world.start_training(spec_of(yuan=1.5))
    world.until(lambda: world.events("will_not_fit"), within_s=30)
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": "9"})
    world.until(lambda: world.events("fits_again"), within_s=30)
    world.until_final(within_s=300)
    assert world.job().state == "finished"


def ladder(*samples: int | None) -> JobSpec:
    """Stages of so many samples each."""
    spec = spec_of(yuan=20)
    stages = tuple(Stage(max_samples=count) for count in samples)
    return replace(spec, stages=stages, runs=spec.runs * len(samples))


def test_later_stages_are_in_it_by_their_samples(world: World) -> None:
    """40 steps for 100 samples: 500 more samples are 200 more steps."""
    world.set_script(steps=40)
    world.submit(ladder(100, 500))
    world.until_state("training", within_s=30)
    world.run(15)
    assert 215_000 <= forecast(world)["eta_ms"] <= 235_000
    assert forecast(world)["total_micros"][1] > 2.2 * YUAN


def test_a_stage_of_unknown_size_is_not_left_out_silently(world: World) -> None:
    """The daemon has not counted "all" of the data: no forecast, rather than a wrong one."""
    world.set_script(steps=40)
    world.submit(ladder(100, None))
    world.until_state("training", within_s=30)
    world.run(15)
    assert world.job().forecast_json is None
