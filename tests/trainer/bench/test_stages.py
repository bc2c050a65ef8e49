"""What a session on a card measures piece by piece: it goes on where it was cut off."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from trainer.__main__ import main
from trainer.bench import steady, unit
from trainer.bench.stages import Piece, facts_of, run_pieces
from trainer.bench.turns import write_whole
from trainer.bench.work import short_samples, text_rows
from trainer.exits import FINISHED, SAVED_ON_REQUEST, USAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WHOLE = pytest.mark.skipif(not os.environ.get("COSTGUARD_TEST_FULL"), reason="make test-full")


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that would not fit into the call's time is left to the next call, the first never."""
    done: list[str] = []

    def piece(name: str, limit_s: float) -> Piece:
        def measure(_folder: Path) -> dict[str, Any]:
            done.append(name)
            return {"name": name}

        return Piece(name, limit_s, measure)

    pieces = [piece("a 1", 5), piece("b", 50), piece("c", 5)]
    assert run_pieces(tmp_path, pieces, budget_s=20) == SAVED_ON_REQUEST
    assert done == ["a 1"]
    assert "left for the next call of the same command: b" in capsys.readouterr().out
    assert run_pieces(tmp_path, pieces, budget_s=60) == FINISHED
    assert done == ["a 1", "b", "c"]
    assert facts_of(tmp_path, pieces) == {name: {"name": name} for name in done}


def test_a_piece_that_fails_is_told_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are measured; the exit code says that one is missing."""
    fails = [True]

    def measure(_folder: Path) -> dict[str, Any]:
        if fails:
            raise AssertionError("it ended with 1")
        return {}

    pieces = [Piece("a", 1, measure), Piece("b", 1, lambda _folder: {})]
    assert run_pieces(tmp_path, pieces, budget_s=60) == 1
    assert capsys.readouterr().err == "a: it ended with 1\n"
    assert facts_of(tmp_path, pieces) == {"b": {}}
    fails.clear()
    assert run_pieces(tmp_path, pieces, budget_s=60) == FINISHED


@pytest.mark.parametrize(("apart", "passes"), [(0.0, True), (0.019, True), (0.03, False)])
def test_the_verdict_is_twice_the_spread(tmp_path: Path, apart: float, *, passes: bool) -> None:
    """Of two runs that nothing happens to; no verdict before all five are there."""
    names = [steady.PLAIN, steady.AGAIN, *steady.OTHERS]
    runs = [Piece(name, 1, lambda _folder: {}) for name in names]
    moved = {steady.AGAIN: 0.01, names[-1]: apart}
    for run in runs:
        assert steady.verdict(tmp_path, runs) is None
        run.folder(tmp_path).mkdir()
        losses = [2.0, 1.0 + moved.get(run.name, 0.0)]
        facts = {"losses": losses, "sha256": "x", "device": "a card"}
        write_whole(run.folder(tmp_path) / "facts.json", facts)
    found = steady.verdict(tmp_path, runs)
    assert found is not None
    assert (found["spread"], found["passes"]) == (pytest.approx(0.01), passes)


def test_a_peer_that_did_not_end_is_reckoned_and_said_to_be() -> None:
    """At its own median step, without the first, which compiles."""
    steps = {"total": 375, "seconds": [60.0, 3.0, 4.0, 5.0], "reserved": 2**30}
    found = unit.reckoned(100.0, steps)
    assert (found["seconds"], found["reckoned"]) == (100 + 371 * 4.0, True)
    assert not unit.reckoned(100.0, {**steps, "total": 4})["reckoned"]


def test_the_unit_is_1000_samples_3_times(tmp_path: Path) -> None:
    """375 steps of 8; the texts are as long as the samples."""
    assert unit.Whole(tmp_path, 1000, 8).total_steps == 375
    samples = short_samples(50)
    texts = [row["instruction"] + row["output"] for row in text_rows(samples)]
    assert all(
        len(t) == max(16, len(s.token_ids) - 26) for t, s in zip(texts, samples, strict=True)
    )


@pytest.mark.torch
@pytest.mark.parametrize("stage", ["unit", "plan", "steady"])
def test_a_stage_needs_a_card_or_to_be_tiny(
    tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message that says what to do."""
    assert main(["bench", "--stage", stage, "--out", str(tmp_path / "b")]) == USAGE
    assert "--tiny" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@WHOLE
@pytest.mark.torch
@pytest.mark.parametrize("stage", ["unit", "plan", "steady"])
def test_a_stage_works_on_a_cpu(
    tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny model, in real processes; resumed, killed and judged runs end alike."""
    words = ["bench", "--stage", stage, "--tiny", "--out", str(tmp_path), "--budget_s", "9999"]
    assert main(words) == FINISHED
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    checks: dict[str, Callable[[], bool]] = {
        "unit": lambda: [f["steps"] for f in told["facts"].values()] == [9, 9, 6],
        "plan": lambda: told["facts"]["plan: measured"]["chosen"]["run_s"] > 0,
        "steady": lambda: told["verdict"]["passes"] and all(told["verdict"]["same_bytes"].values()),
    }
    assert checks[stage]()
