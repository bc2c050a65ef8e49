from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.forecast import Work
from costguard.daemon.foretell import billions_of, works_from_json, works_to_json
from tests.daemon.world import YUAN, spec_of

if TYPE_CHECKING:
    from tests.daemon.world import World

SMALL = Work(samples=80, tokens=8_000, samples_per_step=8, epochs=Fraction(1))
LARGE = replace(SMALL, samples=8_000, tokens=4_000_000)


def lines(world: World, *works: Work, yuan: float = 5, model: str = "m") -> list[str]:
    """What the plan of a job with that work says, at 36 yuan an hour on an RTX 3090."""
    spec = spec_of(yuan=yuan)
    argv = ("python", "--model_name_or_path", model)
    spec = replace(spec, runs=(replace(spec.runs[0], argv=argv),) * max(len(works), 1))
    args = {"spec": spec.to_json(), "work": works_to_json(works)}
    found: list[str] = world.commands.quote(args)["lines"]
    return [line for line in found if "yuan to finish" in line]


def test_a_plan_tells_what_it_will_likely_cost(world: World) -> None:
    """With the range, and where the speed is from: here a card's arithmetic."""
    (line,) = lines(world, SMALL, yuan=20)
    assert line.startswith("forecast: about 1.")
    assert line.endswith("; speed 60 % of 71 TFLOP/s bf16)")


def test_what_will_not_fit_is_said_before_anything_is_rented(world: World) -> None:
    """With the step at which the budget ends, and nothing is refused for it."""
    (line,) = lines(world, SMALL, LARGE)
    assert line.startswith("WILL NOT FIT: about ")
    assert "the budget ends near step " in line
    assert line.endswith(" of stage 2")
    assert world.cloud.routes("create") == []


def test_a_cap_that_ends_before_the_first_step_says_in_which_part(world: World) -> None:
    """A download of fifteen gigabytes is paid for too."""
    (line,) = lines(world, LARGE, yuan=2, model="Qwen/Qwen2.5-7B-Instruct")
    assert line.endswith("the budget ends in the download part")


def test_what_fits_only_with_luck_is_said(world: World) -> None:
    """Between the likely cost and the worst."""
    (line,) = lines(world, SMALL, yuan=4)
    assert line.startswith("MAY NOT FIT: ")


@pytest.mark.parametrize(
    "work",
    [None, [], "x", [{}], [{"samples": "?"}], 5, [{**works_to_json((SMALL,))[0], "epochs": "1/0"}]],
)
def test_work_that_is_not_known_or_not_understood_foretells_nothing(
    world: World, work: Any
) -> None:
    """An older command line sends none; the plan stands without it."""
    assert works_from_json(work) == ()
    plan = world.commands.quote({"spec": spec_of().to_json(), "work": work})
    assert not [line for line in plan["lines"] if "yuan to finish" in line]


def test_work_comes_over_the_socket_as_it_was() -> None:
    """Epochs may be broken."""
    works = (SMALL, replace(SMALL, epochs=Fraction(5, 2)))
    assert works_from_json(works_to_json(works)) == works


def test_a_job_is_submitted_with_its_warning(world: World) -> None:
    """It is the person's money: told, not refused."""
    answer = world.commands.submit(
        {"spec": spec_of().to_json(), "key": "k", "work": works_to_json((LARGE,))}
    )
    assert any(line.startswith("WILL NOT FIT") for line in answer["lines"])
    assert world.job().cap_micros == 5 * YUAN


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7),
        ("qwen2.5-0.5b", Fraction(1, 2)),
        ("Qwen/Qwen2.5-14B", 14),
        ("/models/chat_72B", 72),
        ("model", None),
        ("bert-base", None),
        ("x-4bit", None),
        (None, None),
    ],
)
def test_the_size_of_a_model_is_read_off_its_name(
    model: str | None, billions: Fraction | None
) -> None:
    """A figure and a B; not bits, not a version."""
    assert billions_of(model) == billions
