"""What a run will put on the instance's disk, for first contact: its model and its checkpoints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from costguard.core.estimate import checkpoints_mib, model_mib
from costguard.daemon.foretell import billions_of

if TYPE_CHECKING:
    from costguard.core.spec import Run

# Of weights that come quantised the name's number of parameters does not tell the size.
_QUANTISED = re.compile(r"awq|gptq|gguf|int[48]|[48]-?bit|bnb|fp8|nf4", re.IGNORECASE)
HUGGING_FACE = "huggingface.co"
# As the trainer and LLaMA-Factory have them where a job says nothing.
LORA_RANK, KEPT = 8, 3


def room_needs(run: Run) -> dict[str, Any]:
    """`model` (if a hub gives it), its size by its name, where it is kept, and the checkpoints'.

    Nothing for a command: nobody knows what that writes. A size of 0 is one that is not known.
    """
    if run.engine == "command":
        return {}
    config = {**_flags(run.argv), **run.config}
    model = str(config.get("model_name_or_path") or "")
    billions = billions_of(model)
    rank, kept = (
        _whole(config.get(key), usual)
        for key, usual in (("lora_rank", LORA_RANK), ("save_total_limit", KEPT))
    )
    needs: dict[str, Any] = {"saves": run.output_dir}
    if config.get("finetuning_type", "lora") == "lora":
        needs["checkpoints_mib"] = checkpoints_mib(billions, rank, kept)
    if not run.hosts:
        return needs  # it is uploaded, or lies there already
    known = None if _QUANTISED.search(model) else billions
    from_hub = "HF_HOME" if HUGGING_FACE in run.hosts else "MODELSCOPE_CACHE"
    needs["model_cache"] = from_hub if run.engine == "llamafactory" else "COSTGUARD_MODELS"
    if isinstance(config.get("cache_dir"), str):
        needs["model_dir"] = config["cache_dir"]
    return {**needs, "model": model, "model_mib": model_mib(known)}


def _flags(argv: tuple[str, ...]) -> dict[str, str]:
    """The values of `--name value` and `--name=value`."""
    found = {}
    for word, following in zip(argv, (*argv[1:], ""), strict=True):
        if word.startswith("--"):
            name, mark, value = word[2:].partition("=")
            found[name] = value if mark else following
    return found


def _whole(value: object, usual: int) -> int:
    """A count from a flag or a key; the usual one where it is not said, or is not a count."""
    return int(str(value)) if re.fullmatch(r"[1-9]\d{0,5}", str(value)) else usual
