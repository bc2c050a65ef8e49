"""`python -m trainer export`: the adapter merged into its base, or alone, checked before kept.

Merging needs neither a GPU nor the model in memory: each tensor passes through by itself. What was
written is read back and its answers are compared with those of the trained model on samples; only
if they are near enough does the directory get its name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from trainer import nf4
from trainer.adapter import Adapter, find_adapter
from trainer.checkpoint import ADAPTER_FILES
from trainer.data import find, held_out, read_dataset, require_good
from trainer.disk import Disk
from trainer.download import locate
from trainer.exits import FINISHED, SAVE_FAILED, USAGE, Refusal
from trainer.export_flags import parse_export
from trainer.merge import Basis, Merge, open_merge
from trainer.progress import tell, warn
from trainer.publish import MANIFEST, PARTIAL_PREFIX
from trainer.sample import Sample
from trainer.serve import is_quantised, prepare_process
from trainer.template import QWEN_DEFAULT_SYSTEM, encode, require_chatml
from trainer.tensorfile import ShardWriter, TensorFiles

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainer.streamed import Distance
    from trainer.template import Encoded

SCHEMA = "costguard.manifest/1"
HASH_BYTES = 2**22
FOUR_BIT_SHARE = 0.27
"""Of a bf16 weight's bytes: 4 bits of 16, and the constants of its blocks."""
BESIDE = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
KL_LIMITS = {"bf16": 0.02, "nf4": 0.1}
"""Nats a token between the export and what was trained; `--kl_limit` sets another."""
STANDARD_QUESTIONS = (
    ("周末营业吗", "我们每周一至周六营业。"),
    ("发票怎么开", "我们支持开具电子发票。"),
    ("How do I return a product?", "You can return it within seven days, unused and in its box."),
)
"""Compared on where no data set is given: not the person's own, and said so."""


@dataclass
class Job:
    """One export, all of it found and opened."""

    options: argparse.Namespace
    model: Path
    adapter: Adapter
    merge: Merge
    samples: Sequence[Encoded]

    @property
    def four_bit(self) -> bool:
        """Whether the weights are written in NF4."""
        return self.options.export_quantization_bit == 4

    @property
    def kl_limit(self) -> float:
        """How far the export may be from what was trained."""
        given: float | None = self.options.kl_limit
        return KL_LIMITS["nf4" if self.four_bit else "bf16"] if given is None else given


def run_export(argv: list[str]) -> int:
    """FINISHED once `--export_dir` holds the export; SAVE_FAILED if it is too far off."""
    options = parse_export(argv)
    target: Path = options.export_dir
    if target.exists():
        hint = "give another --export_dir, or remove that one yourself"
        raise Refusal(USAGE, "something is there already", where=str(target), hint=hint)
    adapter = find_adapter(options.adapter_name_or_path)
    partial = target.parent / f"{PARTIAL_PREFIX}{target.name}-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        if options.export_type == "adapter":
            return _publish(partial, target, _copy_adapter(adapter, partial))
        prepare_process()
        job = _job(options, adapter)
        _require_room(job, target.parent)
        return _export_merged(job, partial, target)
    except OSError as error:
        hint = "free the disk, or give an --export_dir that can be written"
        raise Refusal(SAVE_FAILED, f"{error.strerror}", where=str(target), hint=hint) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_room(job: Job, directory: Path) -> None:
    """Refuse at once what would fail after many minutes of computing."""
    sizes = {name: job.merge.base.places[name].size for name in job.merge.names()}
    needed = sum(
        size * FOUR_BIT_SHARE if job.four_bit and nf4.is_linear(name) else size
        for name, size in sizes.items()
    )
    free = shutil.disk_usage(directory).free
    if free < needed:
        what = f"it needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"
        hint = "free the disk, or give another --export_dir"
        raise Refusal(SAVE_FAILED, what, where=str(directory), hint=hint)


def _export_merged(job: Job, partial: Path, target: Path) -> int:
    from trainer.streamed import distance, log_probabilities

    tell(f"computing what {job.adapter.path} answers, a layer at a time")
    trained = log_probabilities(job.model, job.merge.trained, job.samples)

    def far(weights: Callable[[str], Any]) -> Distance:
        return distance(trained, log_probabilities(job.model, weights, job.samples))

    basis, compared = _choose_basis(job, far)
    _write_weights(job, basis, partial)
    _write_beside(job, partial)
    files = TensorFiles(partial)
    written = far(lambda name: nf4.read_weight(files, name))
    _tell("as written and read back", written)
    if not written.mean_kl <= job.kl_limit:
        warn(
            f"the export is {written.mean_kl:.2g} nats a token from what was trained, over "
            f"--kl_limit {job.kl_limit:g}: it is not kept"
        )
        warn("  export without --export_quantization_bit, or deploy the adapter beside its base")
        return SAVE_FAILED
    facts = {
        "kind": "export",
        "weights": "nf4" if job.four_bit else "bf16",
        "merge_base": basis,
        "loads_with": _loads_with(job),
        "default_system": job.adapter.default_system,
        "kl_limit": job.kl_limit,
        "kl": {"written": vars(written), **{name: vars(d) for name, d in compared.items()}},
        "semantics": job.adapter.semantics,
    }
    tell(f"loads with {_loads_with(job)}")
    return _publish(partial, target, facts)


def _choose_basis(
    job: Job, far: Callable[[Callable[[str], Any]], Distance]
) -> tuple[Basis, dict[str, Distance]]:
    """Which base to merge into, and how far each candidate is.

    Where training saw the base in NF4, the original and the dequantised one give two models: the
    second is the one that was trained, the first lacks the noise that training worked around.
    """
    asked: str = job.options.merge_base
    candidates: tuple[Basis, ...] = get_args(Basis)
    if asked != "auto":
        candidates = tuple(basis for basis in candidates if basis == asked)
    elif not job.merge.quantised:
        return "original", {}
    compared: dict[str, Distance] = {}
    for basis in candidates:
        compared[basis] = far(functools.partial(job.merge.merged, basis=basis))
        _tell(f"merged into the {basis} base", compared[basis])
    best = min(candidates, key=lambda basis: compared[basis].mean_kl)
    return best, compared


def _write_weights(job: Job, basis: Basis, partial: Path) -> None:
    with ShardWriter(partial, job.options.export_size * 10**9) as writer:
        for name in job.merge.names():
            weight = job.merge.merged(name, basis)
            if job.four_bit and nf4.is_linear(name):
                for suffix, part in nf4.quantise(weight, double=True).items():
                    writer.add(name + suffix, part)
            else:
                writer.add(name, weight)


def _write_beside(job: Job, partial: Path) -> None:
    """config.json and the tokenizer's files."""
    config = json.loads((job.model / "config.json").read_bytes())
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["dtype"] = "bfloat16"
    if job.four_bit:
        config["quantization_config"] = nf4.quantization_config(double=True, dtype="bfloat16")
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (partial / "config.json").write_text(text, encoding="utf-8")
    system = job.adapter.default_system
    told = 0
    for name in BESIDE:
        if (job.model / name).is_file():
            text = (job.model / name).read_text(encoding="utf-8")
            told += text.count(QWEN_DEFAULT_SYSTEM)
            (partial / name).write_text(with_system(text, system), encoding="utf-8")
    if system != QWEN_DEFAULT_SYSTEM and not (told and is_plain(system)):
        warn(f"serve it with the system prompt that it was trained with: {system}")


def with_system(text: str, system: str) -> str:
    """A chat template's file in which the trained system prompt stands for Qwen's own.

    Else a server would put Qwen's before every conversation that has none, and answer otherwise
    than in training. A prompt that needs escapes is left to whoever serves it.
    """
    return text.replace(QWEN_DEFAULT_SYSTEM, system) if is_plain(system) else text


def is_plain(system: str) -> bool:
    """Whether a text may stand in a template's quotes as it is."""
    return not set(system) & set("'\"\\{}%\n\r\t")


def _copy_adapter(adapter: Adapter, partial: Path) -> dict[str, Any]:
    for name in ADAPTER_FILES:
        shutil.copyfile(adapter.path / name, partial / name)
    tell("loads with peft's PeftModel.from_pretrained, beside its base")
    return {"kind": "adapter", "semantics": adapter.semantics}


def _publish(partial: Path, target: Path, facts: dict[str, Any]) -> int:
    """Write the manifest last, give the directory its name: whole or not there at all."""
    disk = Disk()
    entries: list[dict[str, Any]] = []
    for path in sorted(partial.iterdir()):
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            while piece := stream.read(HASH_BYTES):
                digest.update(piece)
        size = path.stat().st_size
        entries.append({"name": path.name, "size": size, "sha256": digest.hexdigest()})
    document = {"schema": SCHEMA, **facts, "files": entries}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    disk.write_file(partial / MANIFEST, text.encode())
    disk.sync_directory(partial)
    disk.rename(partial, target)
    disk.sync_directory(target.parent)
    tell(f"done: {target}, {sum(e['size'] for e in entries) / 1e9:.2f} GB")
    return FINISHED


def _job(options: argparse.Namespace, adapter: Adapter) -> Job:
    from transformers import AutoTokenizer

    model = locate(options.wanted)
    quantised = is_quantised(model) or options.quantization_bit == 4 or bool(adapter.quantised)
    merge = open_merge(model, adapter, quantised=quantised)
    tokenizer = AutoTokenizer.from_pretrained(model)
    require_chatml(tokenizer)
    encoded = encode(_samples(options), tokenizer, adapter.default_system)
    encoded = [sample for sample in encoded if len(sample.token_ids) <= options.eval_tokens]
    if not encoded:
        hint = "raise --eval_tokens, or give another --dataset"
        raise Refusal(USAGE, "no sample is short enough to compare on", hint=hint)
    return Job(options, model, adapter, merge, encoded[: options.eval_samples])


def _samples(options: argparse.Namespace) -> list[Sample]:
    """What to compare on: held-out samples where a data set is given."""
    if options.dataset is None:
        warn("no --dataset: compared on three standard questions, not on held-out samples of yours")
        return [Sample(0, question, answer) for question, answer in STANDARD_QUESTIONS]
    found = find(options.dataset, options.dataset_dir)
    dataset = read_dataset(found.path, found.row_format)
    require_good(dataset, max_bad_percent=100.0)
    _kept, judged = held_out(dataset.samples, options.val_size, options.seed)
    return judged or dataset.samples


def _loads_with(job: Job) -> str:
    if job.four_bit:
        return (
            "transformers where bitsandbytes is installed (format: bitsandbytes NF4; "
            "llama.cpp and Ollama do not read it: export bf16 for them)"
        )
    return "transformers and whatever serves Qwen2.5 (format: safetensors in bf16)"


def _tell(what: str, found: Distance) -> None:
    tell(
        f"  {what}: {found.mean_kl:.2g} nats a token from what was trained (worst "
        f"{found.max_kl:.2g}), the same first choice at {found.same_first_percent:.1f} % of "
        f"{found.positions} tokens"
    )
