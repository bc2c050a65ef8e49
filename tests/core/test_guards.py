from __future__ import annotations

import math
from dataclasses import replace

import pytest

from costguard.core.guards import idle, judge_alone, judge_training
from costguard.core.snapshot import Signs, Step, TrainingFacts
from costguard.core.spec import GuardLimits
from costguard.core.training import fold
from tests.core.trainings import LIMITS, reason, steps, training, window

QUIET = {"cpu_centicores": 0}


def test_a_quiet_training_phase_is_idle_after_its_allowance_and_not_before() -> None:
    """Every window of the allowance has to be quiet."""
    quiet = tuple(window(ms, **QUIET) for ms in (5_000, 10_000))
    assert reason(training(10_000, windows=quiet, steps=())) == "idle"
    assert reason(training(10_000, windows=quiet[1:], steps=())) is None
    assert reason(training(10_000, windows=(window(5_000), quiet[1]), steps=())) is None


@pytest.mark.parametrize(
    "unknown",
    [
        {"cpu_centicores": None},
        {"gpu_absent": False, "gpu_percent_max": None, **QUIET},
        {"gpu_absent": False, "gpu_percent_max": 5, **QUIET},
        {"gpu_absent": False, "gpu_percent_max": 100, **QUIET},
    ],
)
def test_what_is_unknown_or_busy_is_never_idle(unknown: dict[str, object]) -> None:
    """A lost NVML, a lost CPU figure or one busy card each keep a run from being called idle."""
    windows = tuple(window(ms, **unknown) for ms in (5_000, 10_000, 15_000))
    assert reason(training(15_000, windows=windows)) is None


def test_an_idle_gpu_with_an_idle_cpu_is_idle() -> None:
    """Under five percent on every card counts as quiet."""
    given = {"gpu_absent": False, "gpu_percent_max": 4, **QUIET}
    windows = tuple(window(ms, **given) for ms in (5_000, 10_000))
    assert reason(training(10_000, windows=windows, steps=())) == "idle"


FROZEN = (0.0, 0.0, 18_000.0, 212.4, 61.0, 1_695.0, 9_501.0)


def test_what_goes_on_stepping_is_not_idle_whatever_frozen_figures_show() -> None:
    """A driver that hangs at 0 %, under a loop that waits for its card without a processor."""
    given = {"gpu_absent": False, "gpu_percent_max": 0, "gpu_figures": FROZEN, **QUIET}
    windows = tuple(window(ms, **given) for ms in range(5_000, 65_000, 5_000))
    assert reason(training(60_000, windows=windows, steps=steps(55))) is None
    assert reason(training(60_000, windows=windows, steps=steps(49))) == "idle"
    assert reason(training(60_000, windows=windows, steps=())) == "idle", "nothing says otherwise"


def test_frozen_figures_wait_for_the_next_line_that_is_due() -> None:
    """A line each 8 s: three of its intervals may pass; figures that move need not wait."""
    given = {"gpu_absent": False, "gpu_percent_max": 0, **QUIET}
    logged = steps(3, every_ms=8_000)

    def at(now_ms: int, *, moving: bool) -> str | None:
        figures = [(*FROZEN[:3], 212.4 + ms * moving, *FROZEN[4:]) for ms in range(99)]
        windows = tuple(
            window(ms, **given, gpu_figures=figures[ms // 1_000])
            for ms in range(30_000, now_ms + 1, 5_000)
        )
        return reason(training(now_ms, windows=windows, steps=logged))

    assert at(35_000, moving=True) == "idle"
    assert at(35_000, moving=False) is None
    assert at(45_000, moving=False) is None
    assert at(50_000, moving=False) == "idle"


@pytest.mark.parametrize("phase", ["evaluate", "download", "load", "save"])
def test_quiet_is_no_fault_outside_the_training_phase(phase: str) -> None:
    """A download shows 0 % for good reasons."""
    windows = tuple(window(ms, **QUIET) for ms in (5_000, 10_000, 15_000))
    assert reason(training(15_000, windows=windows, phase=phase)) is None


def test_a_vanished_process_is_found_at_once() -> None:
    """Two windows without a process, and no exit seen."""
    gone = tuple(window(ms, processes=0) for ms in (1_000, 2_000))
    assert reason(training(2_000, windows=gone)) == "idle"
    assert reason(training(2_000, windows=gone[:1])) is None
    hidden = tuple(window(ms, processes=None) for ms in (1_000, 2_000))
    assert reason(training(2_000, windows=hidden)) is None


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run_at_once(loss: float | None) -> None:
    """A dead run must not look alive, wherever the step came from."""
    assert reason(training(6_000, steps=(*steps(5), Step(6, 6_000, loss)))) == "diverged"


def test_divergence_needs_twenty_steps_above_three_times_the_best() -> None:
    """One spike is not divergence."""
    high = steps(20, loss=6.1)
    assert reason(training(20_000, steps=high, best_loss=2.0)) == "diverged"
    assert reason(training(20_000, steps=high[1:], best_loss=2.0)) is None
    calm = (*high[:-1], Step(20, 20_000, 5.9))
    assert reason(training(20_000, steps=calm, best_loss=2.0)) is None


def test_nothing_is_judged_before_training_was_launched() -> None:
    """No process yet is no fault."""
    assert reason(TrainingFacts(agent_now_ms=9_000_000)) is None


def test_the_fold_reads_the_agents_journal() -> None:
    """Started, phase, progress, window and exit each leave their fact."""
    facts = TrainingFacts()
    for message in (
        {"t": "started", "boot_ms": 1_000, "pid": 5},
        {"t": "phase", "boot_ms": 2_000, "phase": "train"},
        {"t": "phase", "boot_ms": 2_500, "phase": "train"},
        {"t": "progress", "boot_ms": 3_000, "step": 1, "total_steps": 9, "loss": 3.5},
        {"t": "progress", "boot_ms": 4_000, "step": 2, "loss": None},
        {"t": "gpu", "boot_ms": 5_000, "window_s": 5, "nvml": {"state": "absent"}, "cards": [],
         "job": {"processes": 2, "cpu_cores": 0.5}},
        {"t": "heartbeat", "boot_ms": 6_000, "n": 4},
    ):  # fmt: skip
        facts = fold(facts, message)
    assert (facts.launched_at_ms, facts.phase, facts.phase_since_ms) == (1_000, "train", 2_000)
    assert [step.loss for step in facts.steps] == [3.5, None]
    assert facts.best_loss == 3.5
    assert facts.windows[0].cpu_centicores == 50
    assert facts.windows[0].gpu_absent
    assert facts.agent_now_ms == 6_000
    assert facts.exit is None


@pytest.mark.parametrize(
    "junk",
    [{}, {"t": "progress"}, {"t": "progress", "boot_ms": 1, "step": "x"}, {"t": "?", "boot_ms": 1}],
)
def test_the_fold_stands_messages_it_does_not_know(junk: dict[str, object]) -> None:
    """What makes no sense changes no fact."""
    assert fold(TrainingFacts(), junk).steps == ()


def test_one_card_without_a_figure_makes_the_gpu_unknown() -> None:
    """A card that is N/A may be the busy one."""
    cards = [{"util_max": 0}, {"util_max": None}]
    message = {"t": "gpu", "boot_ms": 1, "window_s": 5, "nvml": {"state": "ok"}, "cards": cards}
    assert fold(TrainingFacts(), message).windows[0].gpu_percent_max is None


def test_windows_from_before_the_launch_say_nothing_of_the_training() -> None:
    """While the agent waited for its lease there was no process, and that was right."""
    waiting = tuple(window(ms, processes=0) for ms in (5_000, 10_000))
    facts = training(12_000, windows=waiting, launched_at_ms=10_000, phase_since_ms=10_000)
    assert reason(facts) is None
    after = (*waiting, window(15_000, processes=0))
    assert reason(replace(facts, windows=after)) is None
    assert reason(replace(facts, windows=(*after, window(20_000, processes=0)))) == "idle"


def test_what_happened_between_two_windows_far_apart_is_not_idleness() -> None:
    """A machine that was suspended for an hour was not seen to be quiet for an hour."""
    limits = GuardLimits(idle_after_ms=300_000)
    around = (window(5_000, **QUIET), window(3_600_000, **QUIET))
    facts = training(3_600_000, windows=around, steps=steps(1, every_ms=3_590_000))
    assert judge_training(facts, limits, expects_adapter=True) is None
    assert idle(replace(facts, steps=()), limits) is None
    near = tuple(window(ms, **QUIET) for ms in range(60_000, 420_000, 60_000))
    found = judge_training(
        training(360_000, windows=near, steps=steps(1, every_ms=50_000)),
        limits,
        expects_adapter=True,
    )
    assert found is not None
    assert found.evidence["quiet_s"] == 305


def test_quiet_before_the_training_phase_is_not_counted() -> None:
    """Loading the model on one core looks like idleness and is none."""
    windows = tuple(window(ms, **QUIET) for ms in (5_000, 10_000, 15_000, 20_000))
    late = training(20_000, windows=windows, phase_since_ms=10_001)
    assert reason(late) is None
    assert reason(replace(late, phase_since_ms=10_000)) == "idle"


@pytest.mark.parametrize(("cpu", "expected"), [(5, "idle"), (6, None)])
def test_the_cpu_limit_has_two_sides(cpu: int, expected: str | None) -> None:
    """Five hundredths of a core are quiet, six are not."""
    windows = tuple(window(ms, cpu_centicores=cpu) for ms in (5_000, 10_000))
    assert reason(training(10_000, windows=windows, steps=())) == expected


def test_idleness_needs_windows() -> None:
    """No telemetry is blindness, and that is another guard's."""
    assert reason(training(10_000, windows=())) is None


def finished_but_there(now_ms: int, **given: object) -> TrainingFacts:
    """The last of five steps at 5 s, the adapter verified at 6 s, and the process still runs."""
    return training(now_ms, total_steps=5, adapter_at_ms=6_000, **given)


def test_a_finished_job_whose_process_will_not_end_is_finished() -> None:
    """A minute after the last sign, whatever the card shows; the evidence says from what."""
    busy = (window(65_000, gpu_absent=False, gpu_percent_max=100),)
    given = {"windows": busy, "phase": "done"}
    assert reason(finished_but_there(65_999, **given)) is None
    verdict = judge_training(finished_but_there(66_000, **given), LIMITS, expects_adapter=True)
    assert verdict is not None
    assert verdict.reason == "finished"
    assert verdict.evidence == {
        "step": 5,
        "total_steps": 5,
        "artifact_complete": True,
        "waited_s": 60,
        "limit_s": 60,
        "gpu_percent_max": 100,
        "gpu_state": "ok",
        "cpu_cores": 1.0,
        "processes": 2,
    }


@pytest.mark.parametrize(
    "given",
    [
        {"adapter_at_ms": None},
        {"total_steps": 6},
        {"total_steps": None},
        {"signs": Signs(bytes_ms=60_000)},
        {"signs": Signs(status_ms=60_000)},
        {"phase_inferred": True, "signs": Signs(log_ms=60_000)},
    ],
)
def test_what_is_not_through_does_not_linger(given: dict[str, object]) -> None:
    """No result yet, steps to come, or something still written."""
    facts = finished_but_there(70_000, phase="save")
    facts = replace(facts, **given)  # type: ignore[arg-type]  # field by field
    assert reason(facts) is None


def test_bytes_that_cannot_be_seen_hold_the_verdict_up_for_ten_minutes_only() -> None:
    """Unknown counts as life, and not for ever."""
    facts = finished_but_there(606_000, phase="save", signs=Signs(bytes_ms=605_999))
    assert reason(facts) == "finished"
    assert reason(replace(facts, agent_now_ms=605_999)) is None


def test_a_closing_line_without_a_loss_is_not_divergence() -> None:
    """As the agent tells it: the loss null, and not named among what was no number."""
    line = {"t": "progress", "boot_ms": 6_000, "step": 6, "total_steps": 6, "loss": None}
    assert reason(fold(training(6_000), {**line, "nonfinite": []})) is None
    assert reason(fold(training(6_000), {**line, "nonfinite": ["loss"]})) == "diverged"


@pytest.mark.parametrize("state", ["lost", "reset", "changed", "error"])
def test_a_machine_whose_cards_are_in_trouble_is_never_idle(state: str) -> None:
    """What the remaining cards say is not the whole."""
    facts = training(0)
    for at_ms in range(5_000, 20_000, 5_000):
        facts = fold(facts, {"t": "gpu", "boot_ms": at_ms, "window_s": 5,
                             "nvml": {"state": state}, "cards": [{"util_max": 0}],
                             "job": {"processes": 2, "cpu_cores": 0.0}})  # fmt: skip
    assert reason(facts) is None
    assert facts.windows[-1].gpu_state == state


def test_alone_the_users_own_limit_counts_too() -> None:
    """`max_hours` is the daemon's to judge, and the agent's where the daemon is silent."""
    limits = replace(LIMITS, max_ms=3_600_000)
    facts = training(3_600_000, steps=(Step(1, 3_599_000, 2.0), Step(2, 3_599_900, 2.0)))
    verdict = judge_alone(facts, limits, expects_adapter=True)
    assert verdict is not None
    assert verdict.reason == "max_hours"
    assert judge_alone(facts, LIMITS, expects_adapter=True) is None
    assert judge_alone(replace(facts, agent_now_ms=3_599_999), limits, expects_adapter=True) is None


@pytest.mark.parametrize("best", [None, 0.0, -1.0])
def test_growth_is_measured_against_a_best_above_zero_only(best: float | None) -> None:
    """Three times nothing is no limit."""
    assert reason(training(20_000, steps=steps(20, loss=9.0), best_loss=best)) is None


def test_a_step_without_a_loss_among_high_ones_is_not_divergence_yet() -> None:
    """Twenty logged losses are asked for."""
    high = list(steps(20, loss=9.0))
    high[3] = replace(high[3], loss=None)
    assert reason(training(20_000, steps=tuple(high), best_loss=2.0)) is None


def test_exactly_three_times_the_best_is_not_above_it() -> None:
    """The limit belongs to the healthy side."""
    assert reason(training(20_000, steps=steps(20, loss=6.0), best_loss=2.0)) is None


def test_the_evidence_is_kept_with_the_verdict() -> None:
    """`explain` prints what was seen."""
    given = {"gpu_absent": False, "gpu_percent_max": 1, **QUIET}
    windows = tuple(window(ms, **given) for ms in (5_000, 10_000))
    facts = training(10_000, windows=windows, steps=())
    verdict = judge_training(facts, LIMITS, expects_adapter=True)
    assert verdict is not None
    assert verdict.evidence == {
        "quiet_s": 10,
        "limit_s": 10,
        "gpu_percent_max": 1,
        "gpu_absent": False,
        "gpu_frozen": False,
        "cpu_cores": 0.0,
        "step": 0,
    }
