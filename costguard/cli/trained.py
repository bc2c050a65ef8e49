"""The trainer's command lines for talking to a result and exporting it, made from its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.errors import EXIT_REFUSED, UserError
from costguard.lang import _

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TRAIN = ("{python}", "-m", "trainer", "train")
MODEL = "model_name_or_path"
MODEL_FLAGS = (MODEL, "model_source", "model_revision", "cache_dir", "template")
DATA_FLAGS = ("dataset", "dataset_dir", "val_size", "seed")


@dataclass(frozen=True)
class Trained:
    """What the training was told, as far as its result needs it; paths as they are there."""

    flags: Mapping[str, str]
    output_dir: str

    def model(self) -> list[str]:
        """Which model, and where it comes from."""
        return [f"--{name}={self.flags[name]}" for name in MODEL_FLAGS if name in self.flags]

    def data(self) -> list[str]:
        """What the export is compared on with what was trained: its own held-out samples."""
        return [f"--{name}={self.flags[name]}" for name in DATA_FLAGS if name in self.flags]


def trained_by(result: Mapping[str, Any]) -> Trained:
    """What trained this result; UserError where it was not costguard's trainer."""
    argv = tuple(result["argv"])
    if argv[: len(TRAIN)] != TRAIN:
        what = _("{job} was not trained by costguard's trainer: what it made is not known here")
        raise UserError(
            "not_ours",
            what.format(job=result["job"]),
            "[training] engine",
            _("log in and look: costguard shell {job}").format(job=result["job"]),
            EXIT_REFUSED,
        )
    return Trained(_flags(argv[len(TRAIN) :]), str(result["output_dir"]))


def at_home(trained: Trained, result: Mapping[str, Any]) -> Trained:
    """The same with every path as it is on this disk; UserError where the adapter is not home."""
    adapter = result["adapter"]
    if adapter is None or adapter["path"] is None or not Path(adapter["path"]).is_dir():
        what = _("the adapter of {job} is not at home").format(job=result["job"])
        hint = _("bring it home first: costguard pull {job}").format(job=result["job"])
        raise UserError("not_home", what, str((adapter or {}).get("path") or ""), hint)
    here = {each["remote"]: each["local"] for each in result["uploads"]}
    flags = {name: here.get(value, value) for name, value in trained.flags.items()}
    if trained.flags[MODEL] in here:
        flags.pop("model_source", None)
    return Trained(flags, str(adapter["path"]))


def chat_flags(trained: Trained, interview: str | None) -> list[str]:
    """`chat` with the result, or an interview with it."""
    flags = [*trained.model(), f"--adapter_name_or_path={trained.output_dir}"]
    return flags if interview is None else [*flags, f"--interview={interview}"]


def export_flags(trained: Trained, bits: int | None, target: str) -> list[str]:
    """`export` of the result to `target`: merged, in bf16 or in so many bits."""
    flags = [
        *trained.model(),
        *trained.data(),
        f"--adapter_name_or_path={trained.output_dir}",
        f"--export_dir={target}",
    ]
    return flags if bits is None else [*flags, f"--export_quantization_bit={bits}"]


def _flags(words: Sequence[str]) -> dict[str, str]:
    """`--name=value` and `--name value` alike; the last of two counts, as for the trainer."""
    flags: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _equals, value = word.removeprefix("--").partition("=")
            flags[name] = value
        else:
            flags[name] = word
    return flags
