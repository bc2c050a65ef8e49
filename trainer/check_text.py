"""The findings of `check` as a person reads them."""

from __future__ import annotations

from typing import Any

from trainer.lang import told

SHOWN = 20
BAR_CHARACTERS = 30


def as_text(findings: dict[str, Any]) -> list[str]:
    """Lines: a summary, what must be mended, what should be looked at, what the run will be."""
    counted = findings["tokens"]["counted_by"] == "tokenizer"
    about, guessed = ("", "") if counted else ("about ", " (estimated from characters)")
    summary = (
        f"{findings['file']}: {findings['samples']} good rows, {findings['error_count']} bad, "
        f"{findings['duplicates']} repeated; {findings['characters']} characters, "
        f"{about}{findings['estimated_tokens']} tokens{guessed}"
    )
    lines = [summary]
    lines += _errors(findings)
    lines += _paired(findings, "duplicate", "same_as", "the same as line {}: take one out")
    lines += _paired(findings, "near_duplicate", "like", "nearly the same as line {}: keep one")
    lines += _paired(
        findings, "conflict", "same_question_as", "line {}'s question, another answer: keep one"
    )
    lines += _over_cutoff(findings)
    lines += _personal(findings["personal"])
    lines += _tone(findings["tone"])
    if findings["samples"]:
        lines += _counts(findings)
        lines += _lengths(findings["tokens"])
    lines += _run(findings)
    if not findings["samples"] and not findings["error_count"]:
        lines.append("  there is no row in it: write one JSON object a line")
    return lines


def _errors(findings: dict[str, Any]) -> list[str]:
    lines = [
        f"  line {error['line']}: {told(error['what'])}: {told(error['hint'])}"
        for error in findings["errors"]
    ]
    lines += _more(findings["error_count"], "bad rows")
    if findings["error_count"]:
        lines.append(
            f"  {findings['bad_percent']} % of the rows are bad, "
            f"{findings['max_bad_percent']:g} % may be (--max_bad_percent)"
        )
    return lines


def _paired(findings: dict[str, Any], name: str, other: str, text: str) -> list[str]:
    pairs = findings[f"{name}_lines"]
    lines = [f"  line {pair['line']}: {told(text.format(pair[other]))}" for pair in pairs]
    names = {"duplicate": "repeated rows", "near_duplicate": "rows nearly the same",
             "conflict": "questions with two answers"}  # fmt: skip
    return lines + _more(findings[f"{name}s"], names[name])


def _over_cutoff(findings: dict[str, Any]) -> list[str]:
    count = findings.get("estimated_over_cutoff")
    if not count:
        return []
    about = "" if findings["tokens"]["counted_by"] == "tokenizer" else "about "
    line = (
        f"  {about}{count} rows are longer than {findings['cutoff_len']} tokens, the first in "
        f"lines {findings['estimated_over_cutoff_lines']}: raise --cutoff_len, or shorten them "
        "(they are left out whole)"
    )
    return [line]


def _personal(personal: dict[str, Any]) -> list[str]:
    if not personal["count"]:
        return []
    lines = [
        f"  line {item['line']}: {told(item['kind'])} {item['shown']}" for item in personal["lines"]
    ]
    kinds = told(", ").join(f"{told(kind)} {count}" for kind, count in personal["by_kind"].items())
    lines += _more(personal["count"], "pieces of personal data")
    lines.append(
        f"  personal data in {personal['samples']} rows ({kinds}): a model repeats what it learns; "
        "`python -m trainer mask FILE --out NEW` replaces it"
    )
    return lines


def _tone(tone: dict[str, Any]) -> list[str]:
    return [
        f"  mixed tone: {finding['count']} answers have {finding['what']}, the first in lines "
        f"{finding['lines']}: settle for one"
        for finding in tone["mixed"]
    ]


def _counts(findings: dict[str, Any]) -> list[str]:
    least, most = findings["advised_samples"]
    count = findings["samples"]
    if count < least:
        advice = f"fewer than the {least} to {most} that a first data set should have"
    elif count > most:
        advice = f"more than the {least} to {most} of a first run: begin with --max_samples 100"
    else:
        advice = f"within the {least} to {most} that a first data set should have"
    return [f"  {count} samples: {advice}"]


def _lengths(tokens: dict[str, Any]) -> list[str]:
    guessed = ", estimated" if tokens["counted_by"] == "characters" else ""
    summary = (
        f"  tokens a sample{guessed}: median {tokens['median']}, longest {tokens['longest']}; "
        f"{tokens['supervised_percent']} % of them are answers, which are what is trained"
    )
    lines = [summary]
    largest = max(part["samples"] for part in tokens["histogram"])
    for part in tokens["histogram"]:
        if part["samples"]:
            bar = "#" * max(1, round(BAR_CHARACTERS * part["samples"] / largest))
            below = f"- {part['below'] - 1}" if part["below"] else "+"
            lines.append(f"    {part['from']:>5} {below:<8} {part['samples']:>6} {bar}")
    return lines


def _run(findings: dict[str, Any]) -> list[str]:
    lines = []
    if "held_out" in findings:
        lines.append(f"  {findings['held_out']['samples']} samples are held out to judge by")
    if "run" in findings:
        run = findings["run"]
        hours, rest = divmod(run["time_s"], 3600)
        time = f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
        cost = f", ¥{run['cost_yuan']}" if "cost_yuan" in run else ""
        lines.append(
            f"  {run['epochs']:g} epochs are {run['tokens']} tokens: {time}{cost} at "
            f"{run['tokens_per_s']:g} tokens/s; starting, loading and saving come on top"
        )
    return lines


def _more(count: int, what: str) -> list[str]:
    return [f"  and {count - SHOWN} more {what}"] if count > SHOWN else []
