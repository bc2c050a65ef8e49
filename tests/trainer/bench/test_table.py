"""What the bench measures with, and how it makes its table; the measuring needs a card."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from trainer.__main__ import main
from trainer.bench.run import QWEN_7B, table
from trainer.bench.work import LONG, STEPS, VARIANTS, WORKS, full_samples, short_samples
from trainer.bench.worker import ROUND_STEPS, ROUNDS
from trainer.exits import FINISHED, USAGE

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = [
    "work", "variant", "tokens_per_s", "samples_per_s", "peak_reserved_gib",
    "share_of_limit_percent",
]  # fmt: skip


def measured(out: Path, name: str, seconds: list[float]) -> None:
    """A variant's files as its worker leaves them: a round for each of `seconds` a step."""
    folder = out / "".join(c if c.isalnum() else "-" for c in name)
    folder.mkdir(parents=True)
    for number, s_per_step in enumerate(seconds):
        facts = {"seconds": [s_per_step] * ROUND_STEPS, "reserved": (number + 1) * 2**30}
        (folder / f"round-{number}.json").write_text(json.dumps(facts))
    tokens = {"tokens_per_step": 800.0, "samples_per_step": 8.0}
    (folder / "tokens.json").write_text(json.dumps(tokens))


def test_the_samples_are_the_same_each_time_and_as_long_as_told() -> None:
    """Mean about 148 tokens, a third of each untrained."""
    samples = short_samples()
    assert samples == short_samples()
    lengths = [len(sample.token_ids) for sample in samples]
    assert sum(lengths) / len(lengths) == pytest.approx(148, abs=2)
    assert {len(sample.token_ids) for sample in full_samples(20)} == {1024}
    assert all(0 < sample.supervised() < len(sample.token_ids) for sample in samples)


def test_every_variant_belongs_to_a_row() -> None:
    """And each row has ours and a peer."""
    for work in WORKS:
        tools = {variant.tool for variant in VARIANTS.values() if variant.work == work}
        assert "ours" in tools
        assert len(tools) > 1


def test_the_limit_is_the_issues() -> None:
    """About 27,900 tokens a second at 790 TFLOP/s without recomputing."""
    assert 790e12 / QWEN_7B.train_flop_per_token() == pytest.approx(27_900, rel=0.01)


def test_the_table_is_medians_of_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what was measured in full; the contract's keys come first; peak is the largest."""
    (tmp_path / "limit.json").write_text(json.dumps({"tokens_per_s": 10_000}))
    measured(tmp_path, "unsloth bs 8", [0.2, 0.1, 0.4])
    measured(tmp_path, "unsloth packed 8192", [0.2])
    assert ROUNDS == 3
    assert main(["bench", "--out", str(tmp_path), "--json"]) == FINISHED
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row)[: len(CONTRACT)] == CONTRACT
    assert row["work"] == STEPS
    assert (row["tokens_per_s"], row["samples_per_s"]) == (4000.0, 40.0)
    assert (row["peak_reserved_gib"], row["share_of_limit_percent"]) == (3.0, 40.0)
    assert row["spread_percent"] == 150.0


def test_ours_counts_the_real_tokens_of_its_steps(tmp_path: Path) -> None:
    """Padding is not counted; the samples are taken in order."""
    (tmp_path / "limit.json").write_text(json.dumps({"tokens_per_s": 10_000}))
    measured(tmp_path, "ours 4096 selective", [1.0, 1.0, 1.0])
    (tmp_path / "ours-4096-selective" / "tokens.json").unlink()
    (row,) = table(tmp_path)
    size = WORKS[LONG].samples_per_step
    lengths = [len(sample.token_ids) for sample in short_samples()]
    steps = [sum(lengths[(s * size + i) % 1000] for i in range(size)) for s in range(3, 24)]
    rounds = sorted(sum(steps[n * 7 : n * 7 + 7]) / 7 for n in range(3))
    assert row["tokens_per_s"] == pytest.approx(rounds[1], abs=0.1)


@pytest.mark.torch
def test_without_a_card_or_results_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message that says what to do."""
    assert main(["bench", "--out", str(tmp_path / "none")]) == USAGE
    assert "needs a CUDA card" in capsys.readouterr().err
