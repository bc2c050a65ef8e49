from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.cadence import Cadence, cadence, median_step_ms
from costguard.core.guards import judge_training
from costguard.core.phases import PATIENCE
from costguard.core.snapshot import Signs, Step, TrainingFacts
from costguard.core.training import fold
from tests.core.trainings import LIMITS, reason, steps, training, window


def test_a_hung_job_at_full_load_is_found_by_its_cadence() -> None:
    """100 % GPU and no step: the floor is over, whatever the card shows."""
    busy = (window(25_000, gpu_absent=False, gpu_percent_max=100),)
    assert reason(training(24_999, windows=busy)) is None
    assert reason(training(25_000, windows=busy)) == "stalled"


def test_slow_steps_are_given_ten_times_their_own_pace() -> None:
    """The floor is for fast ones."""
    slow = steps(3, every_ms=10_000)
    assert reason(training(30_000 + 99_999, steps=slow)) is None
    assert reason(training(30_000 + 100_000, steps=slow)) == "stalled"


def test_each_phase_has_its_own_patience() -> None:
    """Ten silent minutes of saving or downloading are too many, of loading they are not."""
    assert reason(training(600_000, steps=(), phase="save")) == "stalled"
    assert reason(training(600_000, steps=(), phase="download")) == "stalled"
    assert reason(training(600_000, steps=(), phase="load")) is None


def test_before_the_first_line_five_floors_are_given() -> None:
    """How often it logs is not known yet: fifty steps between two lines are no stall."""
    fresh = training(104_999, steps=(), phase_since_ms=5_000)
    assert reason(fresh) is None
    assert reason(replace(fresh, agent_now_ms=105_000)) == "stalled"


def test_after_one_line_three_times_its_own_wait_are_given() -> None:
    """The only interval that is known; five floors at least, as some log their first step alone."""
    one = training(169_999, steps=(Step(10, 50_000, 2.0),), phase_since_ms=10_000)
    assert reason(one) is None
    assert reason(replace(one, agent_now_ms=170_000)) == "stalled"
    quick = training(110_999, steps=(Step(1, 11_000, 2.0),), phase_since_ms=10_000)
    assert reason(quick) is None
    assert reason(replace(quick, agent_now_ms=111_000)) == "stalled"


def test_the_allowance_scales_with_the_logging_interval() -> None:
    """A line each ten steps of 3 s: ten steps are one interval, so three of these are waited."""
    lines = tuple(Step(10 * n, 30_000 * n, 2.0) for n in range(1, 6))
    facts = training(150_000 + 89_999, steps=lines)
    assert reason(facts) is None
    verdict = judge_training(replace(facts, agent_now_ms=240_000), LIMITS, expects_adapter=True)
    assert verdict is not None
    seen = {key: verdict.evidence[key] for key in ("median_step_s", "log_interval_s", "waited_s")}
    assert seen == {"median_step_s": 3.0, "log_interval_s": 30.0, "waited_s": 90}
    assert cadence(lines, 0) == Cadence(3_000, 30_000)


def test_an_evaluation_line_is_life_in_training() -> None:
    """A line without a loss is no step, and it was not hung when it wrote it."""
    facts = training(44_999, signs=Signs(progress_ms=25_000))
    assert reason(facts) is None
    assert reason(replace(facts, agent_now_ms=45_000)) == "stalled"


def test_a_first_line_that_took_long_is_the_measure_of_the_next() -> None:
    """With `logging_steps = 500` the first line comes after forty minutes, and so does the next."""
    first = 2_400_000
    facts = training(
        first + 3 * first - 1,
        phase_inferred=True,
        phase_since_ms=first,
        launched_at_ms=0,
        steps=(Step(500, first, 1.0),),
    )
    assert reason(facts) is None
    assert reason(replace(facts, agent_now_ms=first + 3 * first)) == "stalled"


def test_a_trainer_without_phases_may_evaluate_while_it_writes() -> None:
    """Half an hour of growing output, then it counts as hung all the same."""
    facts = training(300_000, phase_inferred=True, signs=Signs(log_ms=299_000))
    assert reason(facts) is None
    assert reason(replace(facts, phase_inferred=False)) == "stalled"
    assert reason(replace(facts, signs=Signs(log_ms=200_000))) == "stalled"
    endless = replace(facts, agent_now_ms=1_805_000, signs=Signs(log_ms=1_804_000))
    assert reason(endless) == "stalled"


@pytest.mark.parametrize("phase", sorted(PATIENCE))
def test_a_silent_phase_has_two_sides(phase: str) -> None:
    """Counted from the phase's beginning; a hung phase is found whatever the card shows."""
    busy = (window(1_000, gpu_absent=False, gpu_percent_max=100, cpu_centicores=None),)
    end_ms = 1_000 + PATIENCE[phase].quiet_ms
    facts = training(end_ms - 1, phase=phase, phase_since_ms=1_000, windows=busy, steps=())
    assert reason(facts) is None
    assert reason(replace(facts, agent_now_ms=end_ms)) == "stalled"


@pytest.mark.parametrize(
    ("phase", "sign", "lives"),
    [
        ("download", "bytes_ms", True),
        ("download", "status_ms", True),
        ("download", "log_ms", False),
        ("download", "cpu_ms", False),
        ("tokenise", "cpu_ms", True),
        ("load", "bytes_ms", True),
        ("load", "gpu_ms", False),
        ("evaluate", "log_ms", True),
        ("evaluate", "gpu_ms", False),
        ("save", "bytes_ms", True),
        ("save", "cpu_ms", False),
        ("start", "gpu_ms", True),
    ],
)
def test_progress_inside_a_phase_counts_as_life(phase: str, sign: str, lives: bool) -> None:
    """What counts is what the phase is for: bytes in a download, never the load of the card."""
    end_ms = PATIENCE[phase].quiet_ms
    facts = training(end_ms, phase=phase, steps=(), signs=Signs(**{sign: end_ms - 1_000}))
    assert (reason(facts) is None) is lives


def test_a_download_of_four_hours_is_no_stall_and_a_silent_one_is() -> None:
    """Folded window by window, as the agent tells it."""
    messages = [
        {"t": "started", "boot_ms": 0},
        {"t": "phase", "boot_ms": 1, "phase": "download"},
    ]
    facts = TrainingFacts()
    for message in messages:
        facts = fold(facts, message)
    for at_ms in range(60_000, 4 * 3_600_000 + 1, 60_000):
        job = {"processes": 1, "cpu_cores": 0.01, "io_kib": 40_000, "log_kib": 0}
        cards = [{"util_max": 0}]
        facts = fold(facts, {"t": "gpu", "boot_ms": at_ms, "window_s": 60, "job": job,
                             "nvml": {"state": "ok"}, "cards": cards})  # fmt: skip
        assert reason(facts) is None
    silent = {**job, "io_kib": 3}
    for at_ms in range(14_460_000, 14_460_000 + 11 * 60_000, 60_000):
        facts = fold(facts, {"t": "gpu", "boot_ms": at_ms, "window_s": 60, "job": silent,
                             "nvml": {"state": "ok"}, "cards": cards})  # fmt: skip
    verdict = judge_training(facts, LIMITS, expects_adapter=True)
    assert verdict is not None
    assert (verdict.reason, verdict.text) == ("stalled", "phase download is silent for 660 s")
    assert verdict.evidence["signs_of_life"] == ["progress", "status", "bytes"]


def test_an_endless_phase_is_found_although_it_lives() -> None:
    """An hour of loading is not loading any more."""
    facts = training(3_600_000, phase="load", signs=Signs(cpu_ms=3_599_000))
    verdict = judge_training(facts, LIMITS, expects_adapter=True)
    assert verdict is not None
    assert verdict.text == "no end of phase load for 3600 s"


def test_a_command_that_tells_nothing_is_never_endless() -> None:
    """Where nobody names a phase, work is life for as long as the money lasts."""
    day_ms = 86_400_000
    facts = training(day_ms, phase="start", steps=(), signs=Signs(gpu_ms=day_ms - 5_000))
    assert reason(facts) is None


def test_the_median_ignores_repeated_steps() -> None:
    """After a resume the same step is logged again."""
    assert median_step_ms((Step(5, 0, 1.0), Step(4, 100, 1.0), Step(5, 300, 1.0))) == 200
    assert median_step_ms(steps(1)) is None


def test_steps_repeated_after_a_resume_are_neither_stall_nor_divergence() -> None:
    """From step 5 back to 3: the time goes on, and so does the cadence."""
    again = (*steps(5), Step(3, 9_000, 2.0), Step(4, 10_000, 2.0), Step(5, 11_000, 2.0))
    facts = training(30_999, steps=again, best_loss=2.0)
    assert reason(facts) is None
    assert cadence(again, 0) == Cadence(1_000, 1_000)
    assert reason(replace(facts, agent_now_ms=31_000)) == "stalled"
