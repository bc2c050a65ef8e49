"""`python -m trainer check FILE`: judge a data set before a yuan is spent. Needs no torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from trainer.data import SHOWN_ERRORS, DataSet, Sample, read_dataset
from trainer.exits import DATA, FINISHED, Refusal
from trainer.progress import say

SCHEMA = "costguard.datacheck/1"
# DeepSeek's page "Token & Token Usage" gives 0.6 token for a Chinese character and 0.3 for an
# English one. An estimate: only the model's own tokenizer knows, and `train` asks that one.
TOKENS_PER_CJK_CHARACTER = 0.6
TOKENS_PER_OTHER_CHARACTER = 0.3
TEMPLATE_TOKENS_PER_TURN = 12
SHOWN_LINES = 20


def run_check(argv: list[str]) -> int:
    """FINISHED if every row is good, else DATA; prints the findings, as one JSON with --json."""
    parser = argparse.ArgumentParser(prog="python -m trainer check", allow_abbrev=False)
    parser.add_argument("file", type=Path, help="a .jsonl or .json file in the alpaca format")
    parser.add_argument("--json", action="store_true", help="one JSON document, nothing else")
    parser.add_argument("--cutoff_len", type=int, help="tokens; count the samples over it")
    options = parser.parse_args(argv)
    if options.cutoff_len is not None and options.cutoff_len < 1:
        parser.error("--cutoff_len must be 1 or more")
    try:
        dataset = read_dataset(options.file)
    except Refusal as refusal:
        if options.json:
            say(json.dumps(_refusal_json(refusal), ensure_ascii=False))
            return refusal.exit_code
        raise
    findings = judge(dataset, options.cutoff_len)
    if options.json:
        say(json.dumps(findings, ensure_ascii=False, allow_nan=False))
    else:
        say("\n".join(_as_text(dataset, findings)))
    return DATA if findings["error_count"] or not findings["samples"] else FINISHED


def judge(dataset: DataSet, cutoff_len: int | None) -> dict[str, Any]:
    """What `check --json` prints. Token counts are estimates from characters, and named so."""
    estimates = [estimate_tokens(sample) for sample in dataset.samples]
    characters = [sum(map(len, sample.texts())) for sample in dataset.samples]
    findings: dict[str, Any] = {
        "schema": SCHEMA,
        "file": str(dataset.path),
        "samples": len(dataset.samples),
        "errors": [error.as_json() for error in dataset.errors[:SHOWN_ERRORS]],
        "error_count": len(dataset.errors),
        "duplicates": len(dataset.duplicates),
        "duplicate_lines": [
            {"line": line, "same_as": first} for line, first in dataset.duplicates[:SHOWN_LINES]
        ],
        "characters": sum(characters),
        "answer_characters": sum(
            len(answer) for sample in dataset.samples for _question, answer in sample.turns()
        ),
        "longest_characters": max(characters, default=0),
        "estimated_tokens": sum(estimates),
        "estimated_longest_tokens": max(estimates, default=0),
    }
    if cutoff_len is not None:
        pairs = zip(dataset.samples, estimates, strict=True)
        over = [sample.line for sample, tokens in pairs if tokens > cutoff_len]
        findings["cutoff_len"] = cutoff_len
        findings["estimated_over_cutoff"] = len(over)
        findings["estimated_over_cutoff_lines"] = over[:SHOWN_LINES]
    return findings


def estimate_tokens(sample: Sample) -> int:
    """About how many tokens the sample has for a Qwen-like tokenizer, template included."""
    text = "".join(sample.texts())
    cjk = sum("\u2e80" <= character <= "\u9fff" for character in text)
    tokens = cjk * TOKENS_PER_CJK_CHARACTER + (len(text) - cjk) * TOKENS_PER_OTHER_CHARACTER
    return round(tokens) + TEMPLATE_TOKENS_PER_TURN * len(sample.turns())


def _refusal_json(refusal: Refusal) -> dict[str, Any]:
    error = {"code": "data", "what": refusal.what, "where": refusal.where, "hint": refusal.hint}
    return {"error": error}


def _as_text(dataset: DataSet, findings: dict[str, Any]) -> list[str]:
    summary = (
        f"{dataset.path}: {findings['samples']} good rows, {findings['error_count']} bad, "
        f"{findings['duplicates']} repeated; {findings['characters']} characters, "
        f"about {findings['estimated_tokens']} tokens (estimated from characters)"
    )
    lines = [summary]
    lines += [f"  line {e['line']}: {e['what']}: {e['hint']}" for e in findings["errors"]]
    if findings["error_count"] > SHOWN_ERRORS:
        lines.append(f"  and {findings['error_count'] - SHOWN_ERRORS} more bad rows")
    lines += [
        f"  line {d['line']}: the same as line {d['same_as']}: take one out"
        for d in findings["duplicate_lines"]
    ]
    if findings["duplicates"] > SHOWN_LINES:
        lines.append(f"  and {findings['duplicates'] - SHOWN_LINES} more repeated rows")
    if findings.get("estimated_over_cutoff"):
        lines.append(
            f"  about {findings['estimated_over_cutoff']} rows are longer than "
            f"{findings['cutoff_len']} tokens, the first in lines "
            f"{findings['estimated_over_cutoff_lines']}: raise --cutoff_len, or shorten them"
        )
    if not findings["samples"] and not findings["error_count"]:
        lines.append("  there is no row in it: write one JSON object a line")
    return lines
