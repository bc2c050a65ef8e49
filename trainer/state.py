"""What a checkpoint holds, to and from bytes: adapter, optimizer, random numbers, progress."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.exits import USAGE, Refusal
from trainer.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
OPTIMIZER = "optimizer.pt"
RANDOM = "rng.pt"
PROGRESS = "trainer_state.json"
SCHEMA = "costguard.trainer_state/1"
RETREATED = "retreated"
"""In an execution fingerprint: the card's memory ran out, and the plan is what it held."""


@dataclass
class Progress:
    """Where a run stands. `step` is also the place of the sampler and of the schedule."""

    step: int = 0
    loss_sum: float = 0.0
    """Of the step losses since the last logged line, so that a resume logs the same numbers."""
    loss_steps: int = 0
    judge_due: bool = False
    """A stop request broke the judgement of this step off."""
    watch: Watch = field(default_factory=Watch)


def pack(
    model: Any, optimizer: Any, progress: Progress, facts: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files of a checkpoint. `facts` (semantics, execution) stand beside the progress."""
    document = {"schema": SCHEMA, "progress": asdict(progress), **facts}
    return {
        ADAPTER_WEIGHTS: _pack_weights(model),
        ADAPTER_CONFIG: _pack_adapter_config(model),
        OPTIMIZER: _save(optimizer.state_dict()),
        RANDOM: _save(random_state()),
        PROGRESS: json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1).encode(),
    }


def unpack(files: Mapping[str, bytes], model: Any, optimizer: Any) -> Progress:
    """Put model, optimizer and generators back where they were; the progress is returned."""
    import safetensors.torch
    from peft import set_peft_model_state_dict

    weights = safetensors.torch.load(files[ADAPTER_WEIGHTS])
    outcome = set_peft_model_state_dict(model, weights)
    if outcome.unexpected_keys:
        raise AssertionError(f"the adapter has weights without a place: {outcome.unexpected_keys}")
    optimizer.load_state_dict(_load(files[OPTIMIZER]))
    set_random_state(_load(files[RANDOM]))
    progress = json.loads(files[PROGRESS])["progress"]
    return Progress(**{**progress, "watch": Watch(**progress["watch"])})


def load_adapter(files: Mapping[str, bytes], model: Any) -> None:
    """Put an adapter's weights into `model`, all of them; raises Refusal if they are of another."""
    import safetensors.torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    weights = safetensors.torch.load(files[ADAPTER_WEIGHTS])
    present = get_peft_model_state_dict(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in present.items()}:
        hint = "its --lora_rank, --lora_target and base model must be this run's"
        raise Refusal(USAGE, "that adapter does not fit", where="--init_adapter", hint=hint)
    set_peft_model_state_dict(model, weights)


def execution_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The execution fingerprint of a checkpoint: how it was computed, not what."""
    execution: dict[str, Any] = json.loads(files[PROGRESS])["execution"]
    return execution


def semantics_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The semantic fingerprint of a checkpoint: all that decides what is learnt."""
    semantics: dict[str, Any] = json.loads(files[PROGRESS])["semantics"]
    return semantics


def require_same_semantics(files: Mapping[str, bytes], semantics: Mapping[str, Any]) -> None:
    """Return if the checkpoint was made by a run of the same meaning; else Refusal says what not.

    A resume with another schedule, data set or seed would be neither the old run nor a new one.
    """
    changed = _differences(semantics_of(files), semantics)
    if changed:
        raise Refusal(
            USAGE,
            f"the checkpoints there belong to another run: {'; '.join(changed)}",
            where="--output_dir",
            hint="put that back to go on; give another --output_dir or --from base to begin anew",
        )


def execution_changes(files: Mapping[str, bytes], execution: Mapping[str, Any]) -> list[str]:
    """What computes differently than when the checkpoint was made: no longer bit for bit."""
    return _differences(execution_of(files), execution)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _pack_weights(model: Any) -> bytes:
    import safetensors.torch
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    packed: bytes = safetensors.torch.save(tensors, metadata={"format": "pt"})
    return packed


def _pack_adapter_config(model: Any) -> bytes:
    """The adapter_config.json that peft writes, but with its sets in a fixed order."""
    document = model.peft_config["default"].to_dict()
    document["inference_mode"] = True
    for key, value in document.items():
        if isinstance(value, set):
            document[key] = sorted(value)
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode()


def random_state() -> dict[str, Any]:
    """The generators of torch, for dropout: the loop draws from no other."""
    import torch

    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": gpus}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back to what `random_state` gave."""
    import torch

    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def _save(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _load(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
