"""What comes before the first step: the data, the model, and the checkpoint to go on from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import math
import os
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import model as models, plan as plans, state
from trainer.bar import Bar
from trainer.bits import settle
from trainer.boards import Boards, require_swanlab
from trainer.checkpoint import ADAPTER_FILES, Checkpoint, Checkpoints
from trainer.control import Control
from trainer.data import Sample, held_out, read_dataset, require_good
from trainer.download import locate
from trainer.exits import DATA, USAGE, Refusal
from trainer.packing import GRAIN_TOKENS, plan_packing
from trainer.passes import Passes
from trainer.planning import choose_plan
from trainer.progress import Pace, Status, TrainerLog, tell, warn
from trainer.publish import DamagedError, read_directory
from trainer.sampler import choose, step_samples, steps_per_epoch
from trainer.template import Encoded, encode, require_chatml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.config import Config
    from trainer.stop import StopRequests

OVERLONG_SHARE_MAX = 0.1
SHORT_OF_MEMORY = "with less memory"
OUT_OF_MEMORY_ADVICE = (
    "use --cutoff_len 512, --quantization_bit 4 or a smaller --lora_rank, "
    "or rent a card with more memory"
)
SHOWN_LINES = 20
ADAMW = "adamw_torch"
ADAMW_STATES = 2
"""A mean and a mean square for each weight that is trained, kept as the weight is."""


@dataclass
class Session:
    """What one process holds while it trains."""

    config: Config
    stop: StopRequests
    status: Status
    log: TrainerLog
    checkpoints: Checkpoints
    samples: Sequence[Encoded]
    judged_by: Sequence[Encoded]
    """The held-out samples."""
    total_steps: int
    semantics: dict[str, Any]
    execution: dict[str, Any]
    device: Any
    pad_id: int
    model: Any
    optimizer: Any
    passes: Passes
    progress: state.Progress
    control: Control
    boards: Boards
    bar: Bar
    bits_from: str = ""
    """Why the weights are in 4 bits or not, in words."""
    pace: Pace = field(default_factory=Pace)

    def samples_of(self, step: int) -> list[Encoded]:
        """The samples of optimizer step `step`, counted from 0."""
        config = self.config
        count = len(self.samples)
        indices = step_samples(step, count, config.samples_per_step, config.seed)
        return [self.samples[index] for index in indices]

    def held_out_batches(self) -> list[Sequence[Encoded]]:
        """The held-out samples, as many at a time as a step has."""
        size = self.config.samples_per_step
        return [self.judged_by[i : i + size] for i in range(0, len(self.judged_by), size)]

    def arrange(self, plan: plans.Plan, source: str) -> None:
        """Run as `plan` says from now on, or as the first more frugal plan that the card can hold.

        Every shape that the run will meet is met here. Random numbers are as before. `source`:
        where the plan came from, in words. Raises Refusal if no plan is frugal enough.
        """
        if plan.compiled or plan.captured:
            self.status.update(phase="compile")
        before = state.random_state()
        while not self.arranged(plan):
            plan, source = self._more_frugal(plan), SHORT_OF_MEMORY
        state.set_random_state(before)
        self.execution["plan"] = plan.as_json()
        lengths = ", ".join(str(shape.tokens) for shape in self.passes.packing.shapes)
        tell(f"plan ({source}): {plan.text()}; packs of {lengths} tokens")

    def retreat(self) -> None:
        """Run with less memory than until now; as `arrange`."""
        self.arrange(self._more_frugal(self.passes.plan), SHORT_OF_MEMORY)

    def arranged(self, plan: plans.Plan) -> bool:
        """Whether the card has the memory for `plan`; then it is what runs from now on."""
        # All steps, also those behind a checkpoint: the padding must not change on a resume.
        steps = map(self.samples_of, range(self.total_steps))
        packing = plan_packing(
            itertools.chain(steps, self.held_out_batches()),
            plan.pack_tokens,
            self.pad_id,
            shapes_at_most=plans.SHAPES_AT_MOST,
        )
        try:
            self.passes.arrange(plan, packing, states=self._states_to_come())
        except Exception as error:
            if not models.is_out_of_memory(error):
                raise
            return False
        return True

    def _states_to_come(self) -> int:
        """How many numbers for each weight the optimizer will ask for at its first step.

        Out of memory in the optimizer's own step ends a run, out of memory while a plan is tried
        only makes passes smaller.
        """
        if self.optimizer.state or self.config.optim != ADAMW:  # paged states make room themselves
            return 0
        return ADAMW_STATES

    def _more_frugal(self, plan: plans.Plan) -> plans.Plan:
        self.passes.forget()
        frugal = plan.frugal(self.longest())
        place = f"step {self.progress.step + 1}"
        if frugal is None:
            raise Refusal(
                USAGE,
                "out of memory with the smallest passes and every layer computed again",
                where=place,
                hint=OUT_OF_MEMORY_ADVICE,
            )
        warn(f"out of memory at {place}; from here: {frugal.text()}")
        self.log.append({"current_steps": self.progress.step, "total_steps": self.total_steps,
                         "out_of_memory": True, "plan": frugal.text()})  # fmt: skip
        self.execution[state.RETREATED] = True
        return frugal

    def longest(self) -> int:
        """The most tokens of any sample, rounded up as packs are."""
        return _longest(self)


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


@dataclass(frozen=True)
class Material:
    """What there is to learn and to judge by, in tokens."""

    samples: Sequence[Encoded]
    judged_by: Sequence[Encoded]
    pad_id: int
    sha256: str
    """Of the data set it comes from."""


def prepare(
    config: Config, stop: StopRequests, status: Status, *, arranged: bool = True
) -> Session:
    """Everything up to the first step. What costs least and fails most often comes first.

    With `arranged` false all but the plan and the boards: whoever asks for that arranges one.
    """
    _refuse_several_processes()
    if arranged and config.run.swanlab:
        require_swanlab(config.run.swanlab)
    dataset = read_dataset(config.dataset, config.row_format)
    require_good(dataset, config.max_bad_percent)
    for line, first in dataset.duplicates[:SHOWN_LINES]:
        warn(f"{dataset.path} line {line}: the same as line {first}; it is trained all the same")
    kept, judged = held_out(dataset.samples, config.val_size, config.seed)
    rows = [kept[index] for index in choose(len(kept), config.max_samples, config.seed)]

    config = _fetched(config, status)
    models.prepare_environment(config)
    models.require_one_card()
    tokenizer = models.load_tokenizer(config)
    status.update(phase="tokenise")
    require_chatml(tokenizer)
    material = Material(
        _within_cutoff(rows, encode(rows, tokenizer, config.default_system), config),
        _within_cutoff(judged, encode(judged, tokenizer, config.default_system), config),
        tokenizer.pad_token_id,
        hashlib.sha256(config.dataset.read_bytes()).hexdigest(),
    )
    status.update(phase="load")
    return assemble(config, stop, status, material, arranged=arranged)


def assemble(
    config: Config,
    stop: StopRequests,
    status: Status,
    material: Material,
    *,
    arranged: bool = True,
) -> Session:
    """The session of a run over `material`, with the model loaded and the plan arranged."""
    import torch

    threads = models.thread_count(config)
    torch.set_num_threads(threads)
    device, dtype = models.choose_device()
    models.be_repeatable(device)
    total_steps = _total_steps(config, len(material.samples))
    execution = {"device": models.card_name(device), "threads": threads, **_versions()}
    status.update(total_steps=total_steps)
    checkpoints = Checkpoints(config.output_dir, keep=config.save_total_limit)
    checkpoint = _checkpoint_to_resume(config, checkpoints)
    config, bits_from = settle(config, execution, checkpoint, device, _longest(material))
    semantics = _semantics(config, material, total_steps, dtype)
    if checkpoint:
        state.require_same_semantics(checkpoint.files, semantics)
        status.update(step=checkpoint.step, last_checkpoint=checkpoint.as_json())
    model = models.load_model(config, device, dtype)
    optimizer = _make_optimizer(config, model, device)
    session = Session(
        config=config,
        stop=stop,
        status=status,
        log=TrainerLog(config.output_dir),
        checkpoints=checkpoints,
        samples=material.samples,
        judged_by=material.judged_by,
        total_steps=total_steps,
        semantics=semantics,
        execution=execution,
        device=device,
        pad_id=material.pad_id,
        model=model,
        optimizer=optimizer,
        passes=Passes(model, device, random=config.lora_dropout > 0),
        progress=_progress(config, checkpoint, model, optimizer),
        control=Control(config.output_dir),
        boards=Boards(
            config.output_dir,
            tensorboard=arranged and config.run.tensorboard,
            swanlab=config.run.swanlab if arranged else None,
            facts=semantics,
        ),
        bar=Bar(total_steps, wanted=config.run.bar),
        bits_from=bits_from,
    )
    _say_what(session, dtype)
    if session.progress.watch.best_eval_loss is not None:
        checkpoints.best_step = session.progress.watch.best_eval_step
    goes_on = session.progress.step < total_steps or session.progress.judge_due
    if arranged and goes_on:
        session.arrange(*choose_plan(session, checkpoint))
    if checkpoint and goes_on:
        changes = state.execution_changes(checkpoint.files, session.execution)
        if changes:
            warn(f"not bit for bit as without the break: {'; '.join(changes)}")
    return session


def _semantics(config: Config, material: Material, total_steps: int, dtype: Any) -> dict[str, Any]:
    """All that decides what is learnt: a checkpoint's semantic fingerprint."""
    return {
        **config.semantics(),
        "dataset_sha256": material.sha256,
        "model": models.identity(config),
        "samples": len(material.samples),
        "total_steps": total_steps,
        "compute_dtype": str(dtype),
    }


def _longest(held: Session | Material) -> int:
    most = max(len(e.token_ids) for e in itertools.chain(held.samples, held.judged_by))
    return -(-most // GRAIN_TOKENS) * GRAIN_TOKENS


def _progress(
    config: Config, checkpoint: Checkpoint | None, model: Any, optimizer: Any
) -> state.Progress:
    """Where the run stands: model and optimizer are put there."""
    if checkpoint:
        tell(f"going on from {checkpoint.path.name}")
        return state.unpack(checkpoint.files, model, optimizer)
    if config.run.init_adapter:
        state.load_adapter(_read_adapter(config.run.init_adapter), model)
        tell(f"beginning with the adapter {config.run.init_adapter}")
    return state.Progress()


def _say_what(session: Session, dtype: Any) -> None:
    device, config = session.device, session.config
    nf4_layers = models.assert_no_repacking(session.model) if device.type == "cpu" else None
    weights = sum(parameter.numel() for parameter in models.trainable(session.model))
    on_layers = f" on {nf4_layers} NF4 layers" if nf4_layers else ""
    tell(
        f"{len(session.samples)} samples, {config.samples_per_step} a step, "
        f"{session.total_steps} steps; {weights} LoRA weights{on_layers}; {device.type}, "
        f"{str(dtype).removeprefix('torch.')}, {session.execution['threads']} threads"
    )
    kind = str(dtype).removeprefix("torch.") if config.quantization_bit is None else "NF4"
    tell(f"weights in {kind}: {session.bits_from}")


def _refuse_several_processes() -> None:
    """One card trains: under torchrun the others would be paid for nothing."""
    world = int(os.environ.get("WORLD_SIZE", "1") or "1")
    if world > 1:
        raise Refusal(
            USAGE,
            f"torchrun started {world} processes, but one card trains: {world - 1} would idle",
            hint="rent one card, and start python -m trainer train without torchrun",
        )


def _read_adapter(directory: Path) -> dict[str, bytes]:
    """The files of a finished run's `adapter/`, every byte checked; raises Refusal."""
    try:
        files, _manifest = read_directory(directory)
    except DamagedError as error:
        hint = "give the adapter/ of a finished run"
        raise Refusal(USAGE, str(error), where=str(directory), hint=hint) from error
    return {name: files[name] for name in ADAPTER_FILES}


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
    if config.run.begin == "base":
        for path in checkpoints.put_aside():
            warn(f"--from base: what was there is now {path.name}")
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
