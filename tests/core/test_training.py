from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from costguard.core.guards import judge_alone, judge_training
from costguard.core.snapshot import Exit, TrainingFacts, Verdict
from costguard.core.spec import GuardLimits
from costguard.core.training import STEPS_KEPT, WINDOWS_KEPT, fold


def facts_of(*messages: dict[str, Any]) -> TrainingFacts:
    """What is known after these messages."""
    facts = TrainingFacts()
    for message in messages:
        facts = fold(facts, message)
    return facts


def step(loss: object, n: int = 1) -> dict[str, Any]:
    """A progress message."""
    return {"t": "progress", "boot_ms": n, "step": n, "loss": loss}


def gpu(**given: object) -> dict[str, Any]:
    """A window's message of a machine with one busy card."""
    usual = {
        "window_s": 5.0,
        "nvml": {"state": "ok"},
        "cards": [{"util_max": 97}],
        "job": {"processes": 3, "cpu_cores": 1.25},
    }
    return {"t": "gpu", "boot_ms": 9_000, **usual, **given}


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf"), float("-inf"), "nan", [], True])
def test_a_loss_that_is_no_number_is_a_step_without_one(loss: object) -> None:
    """It ends the run as diverged, and is never anyone's best loss."""
    facts = facts_of(step(2.5, 1), step(loss, 2))
    assert [found.loss for found in facts.steps] == [2.5, None]
    assert facts.best_loss == 2.5
    verdict = judge_training(facts, GuardLimits(), expects_adapter=True)
    assert verdict is not None
    assert verdict.reason == "diverged"


def test_a_line_without_a_loss_is_no_step() -> None:
    """The trainer's last line is a summary; it must not look like a lost loss."""
    assert facts_of({"t": "progress", "boot_ms": 1, "step": 9, "train_runtime": 4}).steps == ()


def test_the_best_loss_is_the_lowest() -> None:
    """Whatever comes after it."""
    assert facts_of(step(3), step(1.5), step(2.0)).best_loss == 1.5


def test_a_window_takes_the_busiest_card() -> None:
    """One busy card is a busy job."""
    window = facts_of(gpu(cards=[{"util_max": 3}, {"util_max": 88.9}])).windows[0]
    assert (window.gpu_percent_max, window.gpu_absent) == (88, False)
    assert (window.at_ms, window.length_ms) == (9_000, 5_000)
    assert (window.cpu_centicores, window.processes) == (125, 3)


@pytest.mark.parametrize(
    "given",
    [
        {"cards": []},
        {"cards": None},
        {"cards": [{"util_max": None}]},
        {"cards": [{"util_max": 50}, {"util_max": "N/A"}]},
        {"cards": [{"util_max": float("nan")}]},
        {"cards": [{}]},
        {"cards": ["card"]},
        {"cards": {"util_max": 1}},
        {"cards": [], "nvml": {"state": "error"}},
        {"cards": [], "nvml": "absent"},
    ],
)
def test_a_card_that_does_not_say_is_unknown(given: dict[str, object]) -> None:
    """Neither idle nor absent: only NVML itself may say that there is no card."""
    window = facts_of(gpu(**given)).windows[0]
    assert (window.gpu_percent_max, window.gpu_absent) == (None, False)


def test_each_window_says_by_what_the_job_lived() -> None:
    """Output, bytes moved, processor and card, each by itself; retries of a download are none."""
    lives = {"log_kib": 1, "io_kib": 64, "cpu_cores": 0.11, "processes": 1}
    dead = {"log_kib": 0, "io_kib": 63, "cpu_cores": 0.1, "processes": 1}
    signs = facts_of(gpu(job=lives, cards=[{"util_max": 5}])).signs
    assert (signs.log_ms, signs.bytes_ms, signs.cpu_ms, signs.gpu_ms) == (9_000,) * 4
    signs = facts_of(gpu(job=dead, cards=[{"util_max": 4}])).signs
    assert (signs.log_ms, signs.bytes_ms, signs.cpu_ms, signs.gpu_ms) == (None,) * 4


def test_what_cannot_be_seen_counts_as_life() -> None:
    """Silence must be seen to be silence; a machine without a card has no load on it."""
    signs = facts_of(gpu(job={}, nvml={"state": "error"}, cards=[])).signs
    assert (signs.log_ms, signs.bytes_ms, signs.cpu_ms, signs.gpu_ms) == (9_000,) * 4
    assert facts_of(gpu(job={}, nvml={"state": "absent"}, cards=[])).signs.gpu_ms is None


def test_progress_and_status_are_signs_of_their_own() -> None:
    """Also a line without a loss, and a phase that is told again."""
    facts = facts_of({"t": "progress", "boot_ms": 7, "step": 3, "total_steps": 9})
    assert (facts.signs.progress_ms, facts.total_steps, facts.steps) == (7, 9, ())
    again = {"t": "phase", "phase": "download"}
    facts = facts_of({**again, "boot_ms": 1}, {**again, "boot_ms": 5})
    assert (facts.phase_since_ms, facts.signs.status_ms) == (1, 5)


def test_a_new_start_forgets_what_the_run_before_showed() -> None:
    """Its signs and its result are not this run's."""
    adapter = {"t": "checkpoint", "boot_ms": 3, "kind": "adapter", "complete": True}
    before = facts_of({"t": "progress", "boot_ms": 2, "step": 3}, adapter)
    assert (before.adapter_at_ms, before.signs.progress_ms) == (3, 2)
    after = fold(before, {"t": "started", "boot_ms": 9})
    assert (after.adapter_at_ms, after.signs.progress_ms) == (None, None)


@pytest.mark.parametrize("job", [None, {}, [], {"processes": "3", "cpu_cores": None}])
def test_processes_that_cannot_be_seen_are_unknown(job: object) -> None:
    """Not none of them, and not 0 % CPU."""
    window = facts_of(gpu(job=job)).windows[0]
    assert (window.processes, window.cpu_centicores) == (None, None)


def test_an_exit_is_kept_with_its_log() -> None:
    """Code, signal, artifact and the last lines."""
    message = {
        "t": "exit",
        "boot_ms": 5,
        "code": 0,
        "signal": None,
        "detail": "why",
        "artifact": {"complete": True},
        "log_tail": ["one", 2],
    }
    kept = Exit(0, None, artifact_complete=True, log_tail=("one", "2"), detail="why")
    assert facts_of(message).exit == kept


@pytest.mark.parametrize("artifact", [None, {}, "complete", {"complete": "no"}, {"complete": 1}])
def test_only_a_plain_true_is_a_complete_artifact(artifact: object) -> None:
    """A run is not finished by a word that merely looks like one."""
    message = {"t": "exit", "boot_ms": 5, "code": 0, "artifact": artifact, "log_tail": 7}
    assert facts_of(message).exit == Exit(0, None, artifact_complete=False)


def test_the_agents_clock_never_runs_backwards() -> None:
    """Messages may come late; time that has passed has passed."""
    late = ({"t": "heartbeat", "boot_ms": 900}, {"t": "heartbeat", "boot_ms": 400})
    assert facts_of(*late).agent_now_ms == 900


def test_the_first_step_of_a_run_outlives_the_window() -> None:
    """A long run's early pauses still count in its forecast; a new start begins anew."""
    many = [{**step(1.0, n), "boot_ms": n} for n in range(1, STEPS_KEPT + 50)]
    facts = facts_of(*many)
    assert facts.began is not None
    assert (facts.began.step, facts.steps[0].step) == (1, 50)
    assert fold(facts, {"t": "started", "boot_ms": 9_999}).began is None


def test_a_phase_counts_from_when_it_began() -> None:
    """Saying it again starts nothing anew, and no word is no phase."""
    train = {"t": "phase", "phase": "train"}
    facts = facts_of({**train, "boot_ms": 100}, {**train, "boot_ms": 300}, {"t": "phase"})
    assert (facts.phase, facts.phase_since_ms) == ("train", 100)
    assert facts_of({"t": "phase", "boot_ms": 1, "phase": None}).phase is None


def test_memory_is_bounded() -> None:
    """A run of a week keeps the latest steps and windows only."""
    facts = facts_of(*(step(1.0, n) for n in range(STEPS_KEPT + 5)))
    assert len(facts.steps) == STEPS_KEPT
    assert facts.steps[-1].step == STEPS_KEPT + 4
    windows = facts_of(*(gpu(boot_ms=n) for n in range(WINDOWS_KEPT + 5))).windows
    assert (len(windows), windows[-1].at_ms) == (WINDOWS_KEPT, WINDOWS_KEPT + 4)


# Whatever JSON can hold, in every field: the usual, the empty, the huge and the wrong kind.
JUNK = st.sampled_from(
    [
        *(None, True, False, 0, 1, -7, 10**30, 10**400, 0.5, 1e308, -1e308),
        *(float("nan"), float("inf"), "", "absent", "train", [], ["x"], [None], {}, {"x": 1}),
        *([{"util_max": 10**400}], [{"util_max": 7}, {}], {"state": "absent"}),
        *({"processes": 0, "cpu_cores": 1e308}, {"processes": "0"}, {"complete": True}),
    ]
)
NAMES = (
    "boot_ms", "phase", "step", "loss", "cards", "nvml", "job", "window_s", "code", "signal",
    "artifact", "log_tail", "kind", "complete", "total_steps", "nonfinite", "inferred",
    "artifact_pending",
)  # fmt: skip
KINDS: st.SearchStrategy[object] = st.sampled_from(
    ["started", "phase", "progress", "gpu", "checkpoint", "exit", "junk", None, []]
)
MESSAGES = st.fixed_dictionaries(
    {"t": KINDS},
    optional=dict.fromkeys(NAMES, JUNK) | {"boot_ms": st.integers(0, 10**12)},
)


@given(st.lists(MESSAGES, max_size=4))
@example([gpu(window_s=1e308, job={"cpu_cores": 1e308})])
@example([step(10**400), gpu(cards=[{"util_max": 10**400}]), {"t": "gpu", "boot_ms": "1"}])
def test_no_message_makes_the_fold_or_the_guards_fail(messages: list[dict[str, Any]]) -> None:
    """The journal comes from a rented machine: it must never take the guard of the money down."""
    facts = facts_of(*messages)
    verdict = judge_alone(facts, GuardLimits(max_ms=1), expects_adapter=True)
    if verdict is not None:
        json.dumps(verdict.evidence)
        assert verdict.text


def test_a_verified_adapter_is_the_result() -> None:
    """One that was verified only after the exit completes it; other checkpoints are none."""
    found = fold(TrainingFacts(), {"t": "exit", "boot_ms": 5, "code": 0, "artifact_pending": True})
    whole = {"t": "checkpoint", "boot_ms": 9, "kind": "adapter", "complete": True}
    done = fold(found, whole)
    assert done.exit is not None
    assert (done.exit.artifact_complete, done.exit.artifact_pending) == (True, False)
    assert done.adapter_at_ms == 9
    assert fold(TrainingFacts(), whole).adapter_at_ms == 9
    for other in ({"kind": "checkpoint"}, {"complete": False}, {"complete": 1}):
        assert fold(found, {**whole, **other}).adapter_at_ms is None


def test_the_agents_first_verdict_counts() -> None:
    """What is not a verdict of its own is none."""
    first = {"t": "verdict", "boot_ms": 1, "reason": "stalled", "text": "no step", "evidence": {}}
    found = fold(TrainingFacts(), first)
    assert found.verdict == Verdict("stalled", "no step", {"by": "agent"}, save=False)
    assert fold(found, {**first, "reason": "idle"}).verdict == found.verdict
    for junk in ({"reason": "budget"}, {"reason": ["idle"]}, {"text": None}):
        assert fold(TrainingFacts(), {**first, **junk}).verdict is None
    bare = fold(TrainingFacts(), {**first, "evidence": "junk"}).verdict
    assert bare is not None
    assert bare.evidence == {"by": "agent"}
