"""What comes before the first step: the data, the model, and the checkpoint to go on from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import model as models, state
from trainer.checkpoint import Checkpoint, Checkpoints
from trainer.data import Sample, held_out, read_dataset, require_good
from trainer.download import locate
from trainer.exits import DATA, USAGE, Refusal
from trainer.progress import Pace, Status, TrainerLog, say, warn
from trainer.sampler import choose, steps_per_epoch
from trainer.template import Encoded, encode, require_chatml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.config import Config
    from trainer.stop import StopRequests

OVERLONG_SHARE_MAX = 0.1
SHOWN_LINES = 20


@dataclass
class Session:
    """What one process holds while it trains."""

    config: Config
    stop: StopRequests
    status: Status
    log: TrainerLog
    checkpoints: Checkpoints
    samples: Sequence[Encoded]
    total_steps: int
    semantics: dict[str, Any]
    execution: dict[str, Any]
    device: Any
    pad_id: int
    model: Any
    optimizer: Any
    progress: state.Progress
    pace: Pace = field(default_factory=Pace)


@contextlib.contextmanager
def claim(output_dir: Path) -> Iterator[None]:
    """Hold `output_dir` for this process alone; two trainers in one would spoil both runs."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output_dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        hint = "give an --output_dir that can be written"
        raise Refusal(USAGE, f"{error.strerror}", where=str(output_dir), hint=hint) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        hint = "wait for it or stop it, or give another --output_dir"
        what = "another trainer is at work there"
        raise Refusal(USAGE, what, where=str(output_dir), hint=hint) from error
    else:
        yield
    finally:
        os.close(descriptor)


def prepare(config: Config, stop: StopRequests, status: Status) -> Session:
    """Everything up to the first step. What costs least and fails most often comes first."""
    dataset = read_dataset(config.dataset, config.row_format)
    require_good(dataset, config.max_bad_percent)
    for line, first in dataset.duplicates[:SHOWN_LINES]:
        warn(f"{dataset.path} line {line}: the same as line {first}; it is trained all the same")
    kept, _judged = held_out(dataset.samples, config.val_size, config.seed)
    chosen = choose(len(kept), config.max_samples, config.seed)
    rows = [kept[index] for index in chosen]

    config = _fetched(config, status)
    models.prepare_environment(config)
    import torch

    threads = models.thread_count(config)
    torch.set_num_threads(threads)
    device, dtype = models.choose_device()

    tokenizer = models.load_tokenizer(config)
    status.update(phase="tokenise")
    require_chatml(tokenizer)
    samples = _within_cutoff(rows, encode(rows, tokenizer, config.default_system), config)
    total_steps = _total_steps(config, len(samples))
    semantics = {
        **config.semantics(),
        "dataset_sha256": hashlib.sha256(config.dataset.read_bytes()).hexdigest(),
        "model": models.identity(config),
        "samples": len(samples),
        "total_steps": total_steps,
        "compute_dtype": str(dtype),
    }
    execution = {"device": device.type, "threads": threads, **_versions()}

    status.update(phase="load", total_steps=total_steps)
    checkpoints = Checkpoints(config.output_dir, keep=config.save_total_limit)
    checkpoint = _checkpoint_to_resume(config, checkpoints)
    if checkpoint:
        state.require_same_semantics(checkpoint.files, semantics)
        status.update(step=checkpoint.step, last_checkpoint=checkpoint.as_json())
    model = models.load_model(config, device, dtype)
    nf4_layers = models.assert_no_repacking(model) if device.type == "cpu" else None
    optimizer = _make_optimizer(config, model, device)
    progress = state.Progress()
    if checkpoint:
        progress = state.unpack(checkpoint.files, model, optimizer)
        _say_resumed(checkpoint, execution)
    weights = sum(parameter.numel() for parameter in models.trainable(model))
    say(
        f"{len(samples)} samples, {config.samples_per_step} a step, {total_steps} steps; "
        f"{weights} LoRA weights"
        + (f" on {nf4_layers} NF4 layers" if nf4_layers else "")
        + f"; {device.type}, {str(dtype).removeprefix('torch.')}, {threads} threads"
    )
    return Session(
        config=config,
        stop=stop,
        status=status,
        log=TrainerLog(config.output_dir),
        checkpoints=checkpoints,
        samples=samples,
        total_steps=total_steps,
        semantics=semantics,
        execution=execution,
        device=device,
        pad_id=tokenizer.pad_token_id,
        model=model,
        optimizer=optimizer,
        progress=progress,
    )


def _fetched(config: Config, status: Status) -> Config:
    """`config` with the model's directory in the place of a hub's name."""
    if Path(config.model_name_or_path).is_dir():
        return config
    status.update(phase="download")
    directory = locate(config.wanted_model())
    status.update(phase="load")
    return replace(config, model_name_or_path=str(directory))


def _checkpoint_to_resume(config: Config, checkpoints: Checkpoints) -> Checkpoint | None:
    """The newest valid checkpoint, None if there is none at all.

    If all are damaged, Refusal: to begin anew is to pay again, and a person must want that.
    """
    checkpoints.sweep()
    present = checkpoints.steps()
    hint = "give another --output_dir, or move the checkpoints away"
    if config.resume == "never" and present:
        what = f"--resume never, but {present[-1][1].name} is there"
        raise Refusal(USAGE, what, where=str(config.output_dir), hint=hint)
    checkpoint = checkpoints.newest_valid()
    for what in checkpoints.damaged.values():
        warn(f"{what}: passed over")
    if present and checkpoint is None:
        what = "no checkpoint there is whole, so there is nothing to go on from"
        raise Refusal(USAGE, what, where=str(config.output_dir), hint=hint)
    return checkpoint


def _say_resumed(checkpoint: Checkpoint, execution: dict[str, Any]) -> None:
    say(f"going on from {checkpoint.path.name}")
    changes = state.execution_changes(checkpoint.files, execution)
    if changes:
        warn("not bit for bit as without the break: " + "; ".join(changes))


def _within_cutoff(
    rows: Sequence[Sample], encoded: Sequence[Encoded], config: Config
) -> list[Encoded]:
    """The samples of at most `cutoff_len` tokens. Longer ones are named; too many are refused.

    They are left out whole: cut, they would teach an answer without its end, or to no question.
    """
    pairs = list(zip(rows, encoded, strict=True))
    over = [(row, len(e.token_ids)) for row, e in pairs if len(e.token_ids) > config.cutoff_len]
    if len(over) > OVERLONG_SHARE_MAX * len(pairs):
        raise Refusal(
            DATA,
            f"{len(over)} of {len(pairs)} samples are longer than --cutoff_len {config.cutoff_len}",
            where=str(config.dataset),
            hint=f"the longest has {max(n for _row, n in over)} tokens: raise --cutoff_len",
        )
    for row, tokens in over[:SHOWN_LINES]:
        warn(f"{config.dataset} line {row.line}: left out: {tokens} tokens, over --cutoff_len")
    return [e for _row, e in pairs if len(e.token_ids) <= config.cutoff_len]


def _total_steps(config: Config, samples: int) -> int:
    if config.max_steps > 0:
        return config.max_steps
    return math.ceil(config.num_train_epochs * steps_per_epoch(samples, config.samples_per_step))


def _make_optimizer(config: Config, model: Any, device: Any) -> Any:
    """AdamW without weight decay, as LLaMA-Factory and transformers have it by default.

    Paging moves states between the card and the host, so on a CPU the 8-bit one is not paged.
    """
    parameters = models.trainable(model)
    if config.optim == "paged_adamw_8bit":
        from bitsandbytes import optim

        kind = optim.PagedAdamW8bit if device.type == "cuda" else optim.AdamW8bit
        return kind(parameters, lr=config.learning_rate, weight_decay=0.0)
    import torch

    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=0.0, fused=device.type == "cuda"
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
