from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.exits import ended_on_request
from costguard.core.guards import judge_training
from costguard.core.snapshot import Exit
from costguard.core.training import fold
from tests.core.trainings import LIMITS, reason, training, window

QUIET = {"cpu_centicores": 0}


def test_out_of_memory_is_named() -> None:
    """The log's end says what an exit code does not."""
    end = Exit(1, None, artifact_complete=False, log_tail=("CUDA out of memory.",))
    verdict = judge_training(training(9_000, exit=end), LIMITS, expects_adapter=True)
    assert verdict is not None
    assert "out of memory" in verdict.text


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (Exit(None, 9, artifact_complete=False), "killed by signal 9"),
        (Exit(65, None, artifact_complete=False), "exit code 65: the data set was refused"),
        (Exit(3, None, artifact_complete=False), "training ended with exit code 3"),
        (Exit(None, None, artifact_complete=False, detail="rebooted"), "was not seen: rebooted"),
        (Exit(None, None, artifact_complete=False), "was not seen: nothing is left of it"),
    ],
)
def test_an_exit_is_put_in_words(end: Exit, text: str) -> None:
    """A person need not know the codes."""
    verdict = judge_training(training(9_000, exit=end, steps=()), LIMITS, expects_adapter=True)
    assert verdict is not None
    assert verdict.text.endswith(text)
    assert verdict.evidence["steps"] == 0


@pytest.mark.parametrize(
    ("code", "line", "kind"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory.", "out_of_memory"),
        (1, "ModuleNotFoundError: No module named 'peft'", "environment"),
        (127, "", "environment"),
        (1, "OSError: [Errno 28] No space left on device", "disk_full"),
        (65, "", "data"),
        (76, "", "save"),
        (75, "", "saved"),
        (70, "", "diverged"),
        (None, "Segmentation fault", "crash"),
    ],
)
def test_an_exit_is_classified(code: int | None, line: str, kind: str) -> None:
    """So that the same is not simply tried again where it cannot help."""
    end = Exit(code, None, artifact_complete=False, log_tail=("before", line))
    verdict = judge_training(training(9_000, exit=end), LIMITS, expects_adapter=True)
    assert verdict is not None
    assert verdict.evidence["class"] == kind


@pytest.mark.parametrize(
    ("end", "expects_adapter", "expected"),
    [
        (Exit(0, None, artifact_complete=True), True, "finished"),
        (Exit(0, None, artifact_complete=False), True, "failed"),
        (Exit(0, None, artifact_complete=False), False, "finished"),
        (Exit(70, None, artifact_complete=True), True, "diverged"),
        (Exit(65, None, artifact_complete=False), True, "failed"),
        (Exit(None, 9, artifact_complete=False), True, "failed"),
    ],
)
def test_an_exit_is_judged_by_its_code_and_its_artifact(
    end: Exit, expects_adapter: bool, expected: str
) -> None:
    """Exit 0 is only finished when the adapter was verified, where one is expected."""
    assert reason(training(9_000, exit=end), expects_adapter=expects_adapter) == expected


def test_an_adapter_that_is_still_being_verified_is_waited_for() -> None:
    """A large one on a slow disk: neither failed nor finished yet; after ten minutes failed."""
    end = Exit(0, None, artifact_complete=False, artifact_pending=True)
    facts = training(9_000, exit=end, exit_at_ms=9_000)
    assert reason(facts) is None
    assert reason(facts, expects_adapter=False) == "finished"
    assert reason(replace(facts, agent_now_ms=609_000)) == "failed"
    told = {"t": "checkpoint", "boot_ms": 20_000, "kind": "adapter", "complete": True}
    assert reason(fold(facts, told)) == "finished"


def test_after_the_exit_only_the_exit_is_judged() -> None:
    """No process and no step are right then."""
    gone = tuple(window(ms, processes=0, **QUIET) for ms in (5_000, 10_000))
    end = Exit(0, None, artifact_complete=True)
    assert reason(training(9_000_000, windows=gone, exit=end)) == "finished"


def test_an_exit_that_nobody_saw_is_finished_only_with_the_result_and_the_last_step() -> None:
    """An agent was killed and the next one adopted the training: the code is not to be had."""
    unseen = Exit(None, None, artifact_complete=True)
    facts = training(9_000, exit=unseen, total_steps=5)
    assert reason(facts) == "finished"
    assert reason(replace(facts, total_steps=6)) == "failed"
    assert reason(replace(facts, total_steps=None)) == "failed"
    assert reason(replace(facts, exit=replace(unseen, artifact_complete=False))) == "failed"
    assert reason(replace(facts, exit=replace(unseen, signal=9))) == "failed"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"code": 75}, True),
        ({"signal": 15, "stop_id": "lease-end-3"}, True),
        ({"signal": 9, "stop_id": "stop-1"}, True),
        ({"code": 143, "stop_id": "lease-end-3"}, True),
        ({"signal": 15, "stop_id": None}, False),
        ({"signal": 11, "stop_id": "stop-1"}, False),
        ({"code": 1, "stop_id": "stop-1"}, False),
        ({"code": 0, "stop_id": "stop-1"}, False),
    ],
)
def test_dying_of_a_stop_is_no_failure(told: dict[str, object], expected: bool) -> None:
    """LLaMA-Factory knows nothing of SIGTERM; a crash meanwhile is a crash."""
    facts = fold(training(9_000), {"t": "exit", "boot_ms": 9_000, **told})
    assert facts.exit is not None
    assert ended_on_request(facts.exit) is expected
