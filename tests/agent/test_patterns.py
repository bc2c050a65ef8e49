from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.patterns import (
    LineProgress,
    TooSlowError,
    compile_pattern,
)
from costguard.agent.spec import SpecError, parse_spec

if TYPE_CHECKING:
    from tests.agent.harness import Job

USUAL = r"step (?P<step>[\d,]+)/(?P<total_steps>\d+) loss=(?P<loss>\S+)"


def feed(lines: list[str], pattern: str = USUAL) -> list[dict[str, Any]]:
    """What these lines tell."""
    return LineProgress(compile_pattern(pattern)).feed(lines)


def test_figures_are_read_from_a_commands_output() -> None:
    """By the names of the groups; other lines say nothing."""
    (told,) = feed(["loading", "it: step 1,200/5000 loss=2.5e-1 ok", "saving"])
    assert told == {"step": 1200, "total_steps": 5000, "loss": 0.25, "nonfinite": []}


def test_a_bar_that_is_drawn_anew_is_told_once() -> None:
    """The same figures again are no progress; a step that comes back after a resume is."""
    lines = ["step 1/9 loss=2", "step 1/9 loss=2", "step 2/9 loss=1", "step 1/9 loss=2"]
    assert [told["step"] for told in feed(lines)] == [1, 2, 1]


@pytest.mark.parametrize(("text", "nonfinite"), [("nan", ["loss"]), ("inf", ["loss"]), ("?", [])])
def test_a_loss_that_is_no_number_is_named(text: str, nonfinite: list[str]) -> None:
    """NaN and infinity are; a text that means nothing is only unknown."""
    (told,) = feed([f"step 1/9 loss={text}"])
    assert (told["loss"], told["nonfinite"]) == (None, nonfinite)


def test_a_flood_of_steps_keeps_the_latest() -> None:
    """Fifty a look."""
    lines = [f"step {number}/9 loss=1" for number in range(500)]
    assert [told["step"] for told in feed(lines)] == list(range(450, 500))


@pytest.mark.parametrize(("pattern", "says"), [("(", "no regular expression"), (3, "be a text")])
def test_an_expression_that_cannot_be_used_is_refused_with_the_order(
    pattern: object, says: str
) -> None:
    """Naming the key, with the reason."""
    with pytest.raises(SpecError, match=f"progress_pattern.*{says}"):
        parse_spec({"run_id": "r", "argv": ["x"], "progress_pattern": pattern})


def test_an_expression_without_an_end_is_given_up() -> None:
    """It must not hold up the dead man's switch: told once, then never used again."""
    progress = LineProgress(compile_pattern(r"(?P<step>(1+)+)$"))
    with pytest.raises(TooSlowError, match="no end of a match"):
        progress.feed(["1" * 60 + "x"])
    assert progress.feed(["11"]) == []


def test_a_commands_progress_in_a_real_agent(job: Job) -> None:
    """The phase is inferred, the steps are told, and a hopeless expression stops nothing."""
    code = "print('step 1/2 loss=2.0'); print('step 2/2 loss=1.0', flush=True)"
    job.order(argv=[sys.executable, "-c", code], progress_pattern=USUAL)
    job.start()
    reader = job.attach()
    reader.lease()
    reader.wait_for("exit", code=0)
    assert [(one["step"], one["loss"]) for one in reader.of("progress")] == [(1, 2.0), (2, 1.0)]
    assert reader.of("phase")[0] | {"phase": "train", "inferred": True} == reader.of("phase")[0]
    hopeless = ["-c", f"print({'1' * 60 + 'x'!r}, flush=True); print('after')"]
    job.order(
        argv=[sys.executable, *hopeless], progress_pattern=r"(?P<step>(1+)+)$", run_id="run-2"
    )
    job.start()
    second = job.attach()
    second.lease()
    second.wait_for("exit", code=0)
    faults = [json.dumps(fault) for fault in second.of("fault")]
    assert len(faults) == 1
    assert "no end of a match" in faults[0]
