"""From a training's command line to the ones for its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.cli.trained import at_home, chat_flags, export_flags, trained_by
from costguard.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = ["{python}", "-m", "trainer", "train"]


def result(*flags: str, **changes: Any) -> dict[str, Any]:
    """A job's result, trained with these flags."""
    given = flags or ("--model_name_or_path", "model", "--dataset", "data/a b.jsonl", "--lr=1e-2")
    base = {
        "job": "kefu",
        "argv": [*TRAIN, *given],
        "output_dir": "output-2",
        "uploads": [
            {"local": "/home-of/model", "remote": "model"},
            {"local": "/home-of/a b.jsonl", "remote": "data/a b.jsonl"},
        ],
        "pull_to": "artifacts",
        "python": None,
        "adapter": {"name": "adapter", "digest": "0" * 12, "path": None},
    }
    return base | changes


def test_the_model_comes_from_where_the_training_had_it() -> None:
    """Both spellings of a flag; of two the last; and nothing of how it was trained."""
    flags = ("--model_name_or_path=x", "--model_source", "modelscope", "--model_name_or_path", "y")
    trained = trained_by(result(*flags, "--lora_rank=8", "--bf16", "true"))
    assert chat_flags(trained, None) == [
        "--model_name_or_path=y",
        "--model_source=modelscope",
        "--adapter_name_or_path=output-2",
    ]


def test_an_interview_and_bits_are_passed_on() -> None:
    """An export is compared on the held-out samples of its own training."""
    trained = trained_by(result())
    assert chat_flags(trained, "/v/i.json")[-1] == "--interview=/v/i.json"
    assert export_flags(trained, 4, "there") == [
        "--model_name_or_path=model",
        "--dataset=data/a b.jsonl",
        "--adapter_name_or_path=output-2",
        "--export_dir=there",
        "--export_quantization_bit=4",
    ]
    assert "--export_quantization_bit" not in " ".join(export_flags(trained, None, "there"))


def test_at_home_every_path_is_this_disks(tmp_path: Path) -> None:
    """What was uploaded is where it was uploaded from; a hub's name stays one."""
    adapter = {"name": "adapter", "digest": "0" * 12, "path": str(tmp_path)}
    known = result(adapter=adapter)
    assert export_flags(at_home(trained_by(known), known), None, "t")[:3] == [
        "--model_name_or_path=/home-of/model",
        "--dataset=/home-of/a b.jsonl",
        f"--adapter_name_or_path={tmp_path}",
    ]
    hub = result("--model_name_or_path=Q/Q", "--model_source=modelscope", adapter=adapter)
    assert chat_flags(at_home(trained_by(hub), hub), None)[:2] == [
        "--model_name_or_path=Q/Q",
        "--model_source=modelscope",
    ]


@pytest.mark.parametrize(
    "adapter",
    [None, {"path": None}, {"path": "/is/gone"}],
    ids=["none", "not pulled", "moved away"],
)
def test_without_the_adapter_at_home_nothing_is_done_there(adapter: dict[str, Any] | None) -> None:
    """With the command that brings it."""
    known = result(adapter=adapter)
    with pytest.raises(UserError) as refused:
        at_home(trained_by(known), known)
    assert "costguard pull kefu" in refused.value.hint


def test_another_engines_result_is_not_guessed_at() -> None:
    """Only a shell gets in there."""
    with pytest.raises(UserError) as refused:
        trained_by(result(argv=["python3", "x.py"]))
    assert "costguard shell kefu" in refused.value.hint
