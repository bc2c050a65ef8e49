"""The interview before a model goes to work (上岗面试): questions, answers, a verdict on each.

A file of questions: JSON lines, or one array, of
`{"question": "发票怎么开", "must": ["电子发票", "邮箱|邮件"], "must_not": ["纸质"]}`, optionally
with `system` and `history` as in a data set. An answer is right if it holds every text in `must`
(`|` parts what may stand for one another) and none in `must_not`. Width, case and spaces of the
texts do not matter. It judges what can be judged without a person: that the facts are there.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.exits import DATA, Refusal
from trainer.formats.rows import read_rows
from trainer.lang import told
from trainer.sample import RowError, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SCHEMA = "costguard.interview/1"
KEYS = ("question", "must", "must_not", "system", "history")
SHOWN_ERRORS = 20
ANSWER_WIDTH = 44
QUESTION_WIDTH = 24


@dataclass(frozen=True)
class Question:
    """One question and what its answer must and must not hold."""

    line: int
    question: str
    must: tuple[tuple[str, ...], ...]
    must_not: tuple[str, ...] = ()
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What was answered and what is wrong with it; right if neither list has anything."""

    answer: str
    missing: tuple[str, ...]
    forbidden: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.missing and not self.forbidden

    def as_json(self) -> dict[str, Any]:
        """The verdict as `chat --interview --json` prints it."""
        return {
            "answer": self.answer,
            "right": self.right,
            "missing": list(self.missing),
            "forbidden": list(self.forbidden),
        }


def read_questions(path: Path) -> list[Question]:
    """The questions of a file; raises Refusal naming each bad row by its line."""
    if path.suffix not in {".jsonl", ".json"}:
        hint = "give a .jsonl or .json file"
        raise Refusal(DATA, f"{path.suffix or 'no suffix'} is not read", where=str(path), hint=hint)
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "check the path and the file's permissions"
        raise Refusal(DATA, f"{error.strerror}", where=str(path), hint=hint) from error
    questions: list[Question] = []
    errors: list[RowError] = []
    for line, row in read_rows(content, path.suffix):
        found = row if isinstance(row, RowError) else _question(line, row)
        if isinstance(found, RowError):
            errors.append(found)
        else:
            questions.append(found)
    if errors or not questions:
        shown = [f"line {e.line}: {told(e.what)}: {told(e.hint)}" for e in errors[:SHOWN_ERRORS]]
        what = f"{len(errors)} bad question(s)" if errors else "there is no question in it"
        hint = "\n  ".join(shown) or 'write {"question": "…", "must": ["…"]}, one a line'
        raise Refusal(DATA, what, where=str(path), hint=hint)
    return questions


def judge(question: Question, answer: str) -> Verdict:
    """The verdict on one answer."""
    said = plain(answer)
    missing = tuple(
        "|".join(choices)
        for choices in question.must
        if not any(plain(choice) in said for choice in choices)
    )
    forbidden = tuple(text for text in question.must_not if plain(text) in said)
    return Verdict(answer, missing, forbidden)


def hold(
    questions: Sequence[Question], ask: Callable[[Question], str]
) -> list[tuple[Question, Verdict]]:
    """Ask each question in order and judge its answer."""
    return [(question, judge(question, ask(question))) for question in questions]


def plain(text: str) -> str:
    """`text` without what does not matter: full width, case, blanks."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def as_json(
    tuned: list[tuple[Question, Verdict]], base: list[tuple[Question, Verdict]] | None
) -> dict[str, Any]:
    """What `chat --interview --json` prints."""
    rows = []
    for index, (question, verdict) in enumerate(tuned):
        row = {"line": question.line, "question": question.question, **verdict.as_json()}
        if base:
            row["base"] = base[index][1].as_json()
        rows.append(row)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "questions": len(tuned),
        "right": count_right(tuned),
        "rows": rows,
    }
    if base:
        document["base_right"] = count_right(base)
    return document


def count_right(held: list[tuple[Question, Verdict]]) -> int:
    """How many answers are right."""
    return sum(verdict.right for _question, verdict in held)


def as_table(
    tuned: list[tuple[Question, Verdict]], base: list[tuple[Question, Verdict]] | None
) -> list[str]:
    """A line for each question, then the sum; columns stand under one another, Chinese or not."""
    heads = [told("question"), *([told("base")] if base else []), told("tuned"), told("answer")]
    marks = max(columns(text) for text in (*heads[1:-1], told("right"), told("wrong")))
    lines = [_row("   ", heads[0], heads[1:-1], heads[-1], marks)]
    for index, (question, verdict) in enumerate(tuned):
        verdicts = [*([_mark(base[index][1])] if base else []), _mark(verdict)]
        lines.append(_row(f"{index + 1:>3}", question.question, verdicts, verdict.answer, marks))
        lines += ["       " + told("lacks: {}").format(text) for text in verdict.missing]
        lines += ["       " + told("must not say: {}").format(text) for text in verdict.forbidden]
    total = told(f"{count_right(tuned)} of {len(tuned)} right")
    if base:
        total += told(f"; the base alone: {count_right(base)}")
    return [*lines, total]


def _row(number: str, question: str, verdicts: Sequence[str], answer: str, marks: int) -> str:
    cells = [number, pad(question, QUESTION_WIDTH), *(pad(text, marks) for text in verdicts)]
    return "  ".join([*cells, pad(answer, ANSWER_WIDTH).rstrip()])


def columns(text: str) -> int:
    """Columns of a terminal that `text` takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def pad(text: str, width: int) -> str:
    """`text` on one line, cut or filled up to `width` columns of a terminal."""
    flat = " ".join(text.split())
    shown, used = "", 0
    for character in flat:
        wide = columns(character)
        if used + wide > width - (1 if len(flat) > len(shown) + 1 else 0):
            return shown + "…" + " " * (width - used - 1)
        shown += character
        used += wide
    return shown + " " * (width - used)


def _mark(verdict: Verdict) -> str:
    return told("right") if verdict.right else told("wrong")


def _question(line: int, row: Any) -> Question | RowError:
    hint = 'write {"question": "…", "must": ["…"]}'
    if not isinstance(row, dict):
        return RowError(line, f"the row is {kind_of(row)}, not an object", hint)
    unknown = [key for key in row if key not in KEYS]
    if unknown:
        return RowError(line, f"unknown key {unknown[0]!r}", f"the keys are {', '.join(KEYS)}")
    question, system = row.get("question"), row.get("system")
    if not isinstance(question, str) or not question.strip():
        return RowError(line, "question is missing or empty", hint)
    if system is not None and not isinstance(system, str):
        return RowError(line, f"system is {kind_of(system)}, not a text", "put it in quotes")
    must, must_not = _texts(row.get("must")), _texts(row.get("must_not"))
    if must is None or must_not is None:
        return RowError(line, "must and must_not are texts, or lists of texts, not empty", hint)
    if not must and not must_not:
        return RowError(line, "nothing is asked of the answer", hint)
    history = row.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn)
        for turn in history
    ):
        return RowError(line, "history is not a list of question-answer pairs", "mend it")
    choices = tuple(tuple(part for part in text.split("|") if plain(part)) for text in must)
    if not all(choices):
        return RowError(line, "must has a text without anything in it", hint)
    turns = tuple((asked, answered) for asked, answered in history)
    return Question(line, question, choices, must_not, system, turns)


def _texts(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list):
        return None
    if not all(isinstance(text, str) and plain(text) for text in listed):
        return None
    return tuple(listed)
