"""`python -m trainer check FILE`: judge a data set before a yuan is spent. Needs no torch."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from statistics import median_low
from typing import Any

from trainer import tokens
from trainer.check_text import as_text
from trainer.data import (
    SHOWN_ERRORS,
    DataSet,
    Found,
    Sample,
    find,
    found_file,
    held_out,
    read_dataset,
)
from trainer.exits import DATA, FINISHED, USAGE, Refusal
from trainer.parsers import ToldParser
from trainer.personal import find_personal, hidden
from trainer.progress import say, tell
from trainer.similar import conflicts, near_duplicates
from trainer.template import QWEN_DEFAULT_SYSTEM
from trainer.tone import judge_tone

SCHEMA = "costguard.datacheck/1"
SHOWN_LINES = 20
ADVISED_SAMPLES = (500, 1000)
"""The article's advice for a first data set: 500 to 1,000 good samples."""
OVERLONG_PERCENT_MAX = 10
"""With more samples over `--cutoff_len` than this, `train` refuses to begin."""
HISTOGRAM_EDGES = (0, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Plan:
    """What the check is told of the run to come; None where it is told nothing."""

    cutoff_len: int | None = None
    max_bad_percent: float = 0.0
    val_size: float = 0.0
    seed: int = 42
    max_samples: int | None = None
    num_train_epochs: float = 3.0
    price_yuan_per_hour: Decimal | None = None
    tokens_per_s: float | None = None
    tokenizer: Path | None = None
    default_system: str = QWEN_DEFAULT_SYSTEM


def run_check(argv: list[str]) -> int:
    """FINISHED if the data may be trained on, else DATA; prints the findings."""
    parser = _parser()
    options = parser.parse_args(argv)
    plan = Plan(**{name: getattr(options, name) for name in Plan.__dataclass_fields__})
    try:
        _require_sense(options.file, options.dataset, plan)
        found = _found(options.file, options.dataset, options.dataset_dir)
        findings = judge(read_dataset(found.path, found.row_format), plan)
    except Refusal as refusal:
        if options.json:
            say(json.dumps(refusal_json(refusal), ensure_ascii=False))
            return refusal.exit_code
        raise
    if options.json:
        say(json.dumps(findings, ensure_ascii=False, allow_nan=False))
    else:
        tell("\n".join(as_text(findings)))
    return FINISHED if findings["verdict"] == "good" else DATA


def judge(dataset: DataSet, plan: Plan) -> dict[str, Any]:
    """What `check --json` prints. Token counts are estimates from characters, where not told."""
    samples = dataset.samples
    if plan.tokenizer:
        lengths = tokens.count(samples, plan.tokenizer, plan.default_system)
    else:
        lengths = tokens.estimate(samples, plan.default_system)
    characters = [sum(map(len, sample.texts())) for sample in samples]
    alike, contradicting = near_duplicates(samples), conflicts(samples)
    findings: dict[str, Any] = {
        "schema": SCHEMA,
        "file": str(dataset.path),
        "samples": len(samples),
        "errors": [error.as_json() for error in dataset.errors[:SHOWN_ERRORS]],
        "error_count": len(dataset.errors),
        "bad_percent": round(dataset.bad_percent(), 2),
        "max_bad_percent": plan.max_bad_percent,
        "duplicates": len(dataset.duplicates),
        "duplicate_lines": _pairs(dataset.duplicates, "same_as"),
        "near_duplicates": len(alike),
        "near_duplicate_lines": _pairs(alike, "like"),
        "conflicts": len(contradicting),
        "conflict_lines": _pairs(contradicting, "same_question_as"),
        "characters": sum(characters),
        "answer_characters": sum(
            len(answer) for sample in samples for _question, answer in sample.turns()
        ),
        "longest_characters": max(characters, default=0),
        "estimated_tokens": sum(length.total for length in lengths),
        "estimated_longest_tokens": max((length.total for length in lengths), default=0),
        "tokens": _tokens(lengths, plan),
        "tone": judge_tone(samples),
        "personal": _personal(samples),
        "advised_samples": list(ADVISED_SAMPLES),
    }
    if plan.cutoff_len is not None:
        over = _over(samples, lengths, plan.cutoff_len)
        findings["cutoff_len"] = plan.cutoff_len
        findings["estimated_over_cutoff"] = len(over)
        findings["estimated_over_cutoff_lines"] = over[:SHOWN_LINES]
    _add_run(findings, samples, lengths, plan)
    findings["verdict"] = "bad" if _is_bad(dataset, findings, plan) else "good"
    return findings


def refusal_json(refusal: Refusal) -> dict[str, Any]:
    """A refusal as a program reads it."""
    error = {"code": "data", "what": refusal.what, "where": refusal.where, "hint": refusal.hint}
    return {"error": error}


def _is_bad(dataset: DataSet, findings: dict[str, Any], plan: Plan) -> bool:
    """Whether `train` would refuse. An estimate of lengths warns, and refuses nothing."""
    if not dataset.samples or dataset.bad_percent() > plan.max_bad_percent:
        return True
    over = findings.get("estimated_over_cutoff", 0) if plan.tokenizer else 0
    return over > OVERLONG_PERCENT_MAX / 100 * len(dataset.samples)


def _pairs(pairs: list[tuple[int, int]], name: str) -> list[dict[str, int]]:
    return [{"line": line, name: first} for line, first in pairs[:SHOWN_LINES]]


def _over(samples: list[Sample], lengths: list[tokens.Length], cutoff_len: int) -> list[int]:
    pairs = zip(samples, lengths, strict=True)
    return [sample.line for sample, length in pairs if length.total > cutoff_len]


def _tokens(lengths: list[tokens.Length], plan: Plan) -> dict[str, Any]:
    totals = [length.total for length in lengths]
    total, supervised = sum(totals), sum(length.supervised for length in lengths)
    bins = Counter(max(edge for edge in HISTOGRAM_EDGES if edge <= n) for n in totals)
    ends = [*HISTOGRAM_EDGES[1:], None]
    return {
        "counted_by": "tokenizer" if plan.tokenizer else "characters",
        "total": total,
        "longest": max(totals, default=0),
        "median": median_low(totals) if totals else 0,
        "supervised": supervised,
        "supervised_percent": round(100 * supervised / total, 1) if total else None,
        "histogram": [
            {"from": start, "below": end, "samples": bins[start]}
            for start, end in zip(HISTOGRAM_EDGES, ends, strict=True)
        ],
    }


def _personal(samples: list[Sample]) -> dict[str, Any]:
    found = []
    for sample in samples:
        for text in sample.texts():
            for span in find_personal(text):
                shown = hidden(text[span.start : span.end])
                found.append({"line": sample.line, "kind": span.kind, "shown": shown})
    return {
        "count": len(found),
        "by_kind": dict(Counter(str(item["kind"]) for item in found)),
        "samples": len({item["line"] for item in found}),
        "lines": found[:SHOWN_LINES],
    }


def _add_run(
    findings: dict[str, Any], samples: list[Sample], lengths: list[tokens.Length], plan: Plan
) -> None:
    """What the run will hold out, train and cost, as far as the plan says."""
    if not samples:
        return
    kept, judged = held_out(samples, plan.val_size, plan.seed)
    if judged:
        lines = [sample.line for sample in judged]
        findings["held_out"] = {"samples": len(judged), "lines": lines[:SHOWN_LINES]}
    if plan.tokens_per_s is None:
        return
    length_of = {sample.line: length.total for sample, length in zip(samples, lengths, strict=True)}
    limit = plan.cutoff_len or max(length_of.values())
    trained = [length_of[s.line] for s in kept if length_of[s.line] <= limit]
    share = min(1.0, plan.max_samples / len(trained)) if plan.max_samples and trained else 1.0
    total = round(sum(trained) * share * plan.num_train_epochs)
    seconds = total / plan.tokens_per_s
    run: dict[str, Any] = {
        "epochs": plan.num_train_epochs,
        "tokens": total,
        "tokens_per_s": plan.tokens_per_s,
        "time_s": round(seconds),
    }
    if plan.price_yuan_per_hour is not None:
        yuan = plan.price_yuan_per_hour * Decimal(round(seconds)) / 3600
        run["price_yuan_per_hour"] = str(plan.price_yuan_per_hour)
        run["cost_yuan"] = str(yuan.quantize(Decimal("0.01"), rounding=ROUND_CEILING))
    findings["run"] = run


def _found(file: Path | None, dataset: str | None, directory: Path) -> Found:
    if file is not None:
        return found_file(file)
    return find(dataset or "", directory)


def _require_sense(file: Path | None, dataset: str | None, plan: Plan) -> None:
    """Refuse what cannot be meant."""
    if (file is None) == (dataset is None):
        raise Refusal(USAGE, "give a FILE, or --dataset and --dataset_dir")
    if plan.price_yuan_per_hour is not None and plan.tokens_per_s is None:
        hint = "add --tokens_per_s, as `python -m trainer bench` or an earlier run's log has it"
        raise Refusal(
            USAGE, "a price alone gives no cost", where="--price_yuan_per_hour", hint=hint
        )


def _parser() -> argparse.ArgumentParser:
    parser = ToldParser(prog="python -m trainer check", allow_abbrev=False)
    add = parser.add_argument
    add("file", type=Path, nargs="?", help="a .jsonl, .json or .csv file")
    add("--dataset", help="a name in --dataset_dir, instead of a file")
    add("--dataset_dir", type=Path, default=Path("data"))
    add("--json", action="store_true", help="one JSON document, nothing else")
    add("--cutoff_len", type=_whole, help="tokens; count the samples over it")
    text = "bad rows up to this share are left out, named; more are refused"
    add("--max_bad_percent", type=_percent, default=0.0, help=text)
    text = "held out to judge by: a share below 1, or a number of samples"
    add("--val_size", type=_positive, default=0.0, help=text)
    add("--seed", type=int, default=42, help="of the choice of what is held out")
    add("--max_samples", type=_whole, help="as `train` has it")
    add("--num_train_epochs", type=_positive, default=3.0)
    add("--price_yuan_per_hour", type=_yuan, help="of the card")
    add("--tokens_per_s", type=_speed, help="what the card trains")
    add("--tokenizer", type=Path, help="a model's directory: count, not estimate")
    add("--default_system", default=QWEN_DEFAULT_SYSTEM)
    return parser


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e12:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def _speed(text: str) -> float:
    value = _positive(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must be from 0 to 100, not {text}")
    return value


def _yuan(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is no price") from None
    if not (value.is_finite() and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no price")
    return value
