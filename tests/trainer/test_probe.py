"""`python -m trainer plan`: measured in a process of its own, kept for `train`."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trainer import plan as plans, probe
from trainer.__main__ import main
from trainer.bench import shape
from trainer.bits import estimate, settle
from trainer.config import Config
from trainer.exits import FINISHED, SAVED_ON_REQUEST, USAGE
from trainer.options import RunOptions
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]


def arguments(config: Config, bits: str = "4") -> list[str]:
    return [
        *("--model_name_or_path", config.model_name_or_path, "--dataset", str(config.dataset)),
        *("--output_dir", str(config.output_dir), "--quantization_bit", bits, "--max_steps", "8"),
        *("--threads", "1"),
    ]


real_probe = probe._probe


def _half_in_this_process(arguments: list[str]) -> tuple[int, str, str]:
    """Only the first of both measures in a process of its own: importing torch takes seconds."""
    if arguments[-1] == probe.BITS[0]:
        return real_probe(arguments)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        probe.measure(arguments)
    return FINISHED, out.getvalue(), ""


def test_it_measures_keeps_and_is_used(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """4 bits and none, several plans each: the one with the fewest seconds; train takes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_probe", _half_in_this_process)
    auto = RunOptions(auto_bits=True)
    config = make_config(per_device_train_batch_size=1, gradient_accumulation_steps=8, run=auto,
                         quantization_bit=None)  # fmt: skip
    assert main(["plan", *arguments(config, "auto"), "--json"]) == FINISHED
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    chosen = told["chosen"]
    assert {facts["bits"] for facts in told["tried"]} == {4, None}
    assert chosen["run_s"] == min(facts["run_s"] for facts in told["tried"])
    assert chosen["run_s"] > 8 * chosen["s_per_step"] + chosen["load_s"] > chosen["load_s"] > 0
    assert told["probe_s"] > sum({facts["load_s"] for facts in told["tried"]})
    assert told["sources"].keys() == {*chosen["plan"], "bits"}
    assert told["sources"]["pack_tokens"] == "measured: the quickest of the 6 tried"
    kept = json.loads(plans.cache_path().read_bytes())
    assert len(kept) == 3  # one for each, and which of them is better
    assert kept[chosen["any_bits_key"]]["bits"] == chosen["bits"]
    other = None if chosen["bits"] else 4  # what the measuring did not say
    lone = plans.Plan(333, "none", compiled=False, captured=False, attention="sdpa")
    for key in kept:
        plans.remember(key, lone, {"bits": other})
    assert run(config) == FINISHED
    out = capsys.readouterr().out
    assert f"weights in {'NF4' if other else 'float32'}: measured by plan" in out
    assert "plan (measured on cpu): passes of up to 333 tokens" in out


def test_the_bits_stay_what_the_checkpoint_has(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """They decide what is learnt: another choice of `plan` does not change a run that has begun."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    auto = {"run": RunOptions(auto_bits=True), "quantization_bit": None}
    assert run(make_config(**auto, max_steps=2, save_steps=1)) == FINISHED
    assert "weights in NF4: usual on a CPU" in capsys.readouterr().out
    monkeypatch.setattr("trainer.plan.recall", lambda _key: plans.Measured(plans.cpu_plan(), None))
    (tmp_path / "output" / "checkpoint-2" / "manifest.json").unlink()
    assert run(make_config(**auto, max_steps=2)) == FINISHED
    assert "weights in NF4: the checkpoint's" in capsys.readouterr().out
    semantics = json.loads((tmp_path / "output" / "adapter" / "manifest.json").read_bytes())
    assert semantics["semantics"]["quantization_bit"] == 4


@pytest.mark.parametrize("bits", [4, None])
def test_a_rung_stays_on_the_base_of_the_last(
    trained: dict[int | None, Path], make_config: Callable[..., Config], bits: int | None
) -> None:
    """Its adapter was trained beside that base's rounding."""
    options = RunOptions(auto_bits=True, init_adapter=trained[bits] / "adapter")
    settled, source = settle(make_config(run=options, quantization_bit=None), {}, None, None, 64)
    assert (settled.quantization_bit, source) == (bits, "what --init_adapter was trained on")


@pytest.mark.parametrize(("gib", "bits"), [(10, 4), (16, 4), (79, None)])
def test_the_estimate_takes_bf16_where_it_fits(tmp_path: Path, gib: int, bits: int | None) -> None:
    """15 GB of weights leave a 16 GiB card nothing to train with; a large one saves time."""
    (tmp_path / "config.json").write_text(json.dumps(shape.QWEN_7B))
    config = Config(model_name_or_path=str(tmp_path), dataset=tmp_path, output_dir=tmp_path)
    card = plans.Card("a card", gib * 2**30, 800e12, "varlen")
    assert estimate(config, card, 512) == bits


@pytest.mark.parametrize("card_fails", [True, False])
def test_what_the_card_cannot_hold_is_told_and_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    make_config: Callable[..., Config], *, card_fails: bool,
) -> None:  # fmt: skip
    """A plan that ran out of memory is said to; if all did, that is an error with its reason."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    facts = {
        "plan": plans.cpu_plan().as_json(), "device": "a card", "key": "a", "any_bits_key": "b",
        "steps": 8, "samples_per_step": 4, "bits": None, "dtype": "bfloat16", "needed": "much",
        "sources": {**dict.fromkeys(plans.cpu_plan().as_json(), "so"), "bits": "so"},
    }  # fmt: skip
    fitted = {**facts, "bits": 4, "s_per_step": 1.0, "peak_gib": 5.0, "load_s": 2.0,
              "arrange_s": 0.0, "run_s": 10.0}  # fmt: skip
    none = json.dumps({**facts, "s_per_step": None}) + "\n"
    answers = iter([(0, none if card_fails else json.dumps(fitted) + "\n", ""), (0, none, "")])
    monkeypatch.setattr(probe, "_probe", lambda _arguments: next(answers))
    code = main(["plan", *arguments(make_config(), "auto")])
    captured = capsys.readouterr()
    if card_fails:
        assert (code, captured.err) == (USAGE, "the probe: it measured nothing\n")
        return
    assert code == FINISHED
    assert "bfloat16, passes of up to 512 tokens, sdpa attention" in captured.out
    assert "the backward pass: out of memory" in captured.out
    assert re.search(r"weights +NF4 +the other did not fit", captured.out)


def test_a_stop_request_ends_the_measuring_process_too(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Exit 75, and nothing goes on holding the card."""
    config = make_config()
    command = [sys.executable, "-m", "trainer", "plan", *arguments(config)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    deadline_s = time.monotonic() + 60
    while not (measuring := children.read_text().split()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=30)[1]
    assert (child.returncode, said) == (SAVED_ON_REQUEST, "stopped: nothing was kept\n")
    assert not Path(f"/proc/{measuring[0]}").exists()


def test_what_the_probe_refuses_is_said(
    make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, not a traceback."""
    config = make_config(model_name_or_path="/nowhere/at/all")
    assert main(["plan", *arguments(config)]) == USAGE
    assert "no such model directory" in capsys.readouterr().err
