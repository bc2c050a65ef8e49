"""Alpaca data sets: read them, and say of each bad row in which line it is and what is wrong.

Standard library only, so that a data set can be judged on a machine without torch.
A row: `instruction`, `output` (texts, not empty), optionally `input`, `system` (texts) and
`history` (a list of [question, answer] pairs). `.jsonl` holds one object a line, `.json` one array.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.exits import DATA, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = (".jsonl", ".json")
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
KEYS = ("instruction", "input", "output", "system", "history")
SHOWN_ERRORS = 20
_COMMON_NAMES = {
    "prompt": "instruction",
    "question": "instruction",
    "query": "instruction",
    "answer": "output",
    "response": "output",
    "completion": "output",
}


@dataclass(frozen=True)
class RowError:
    """What is wrong with the row that begins in `line`, and what to do about it."""

    line: int
    what: str
    hint: str

    def as_json(self) -> dict[str, Any]:
        """The error as `check --json` prints it."""
        return {"line": self.line, "what": self.what, "hint": self.hint}


@dataclass(frozen=True)
class Sample:
    """One row: the turns of a conversation, the last of which is `question` and `answer`."""

    line: int
    question: str
    answer: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()

    def turns(self) -> tuple[tuple[str, str], ...]:
        """All (question, answer) pairs, oldest first."""
        return (*self.history, (self.question, self.answer))

    def texts(self) -> tuple[str, ...]:
        """Every text that the model would read."""
        system = () if self.system is None else (self.system,)
        return (*system, *(text for turn in self.turns() for text in turn))


@dataclass
class DataSet:
    """What a file holds: the good samples in their order, the errors, the repeated rows."""

    path: Path
    samples: list[Sample] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    """(line, line of the first row with the same texts)"""


def find_dataset(name: str, directory: Path) -> Path:
    """The file meant by `--dataset name --dataset_dir directory`; raises Refusal naming both."""
    wanted = Path(name)
    candidates = [wanted] if wanted.suffix in SUFFIXES else []
    candidates += [directory / f"{name}{suffix}" for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise Refusal(
        DATA,
        f"there is no data set {name!r}",
        where="--dataset",
        hint="looked for "
        + ", ".join(str(candidate) for candidate in candidates)
        + ": give the path of a .jsonl file, or a name and --dataset_dir",
    )


def read_dataset(path: Path) -> DataSet:
    """Everything in `path`, good and bad; raises Refusal if the file cannot be read at all."""
    if path.suffix not in SUFFIXES:
        raise Refusal(
            DATA,
            f"{path.suffix or 'a file without a suffix'} is not a format that is read here",
            where=str(path),
            hint="give a .jsonl file (one object a line) or a .json file (an array of objects)",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "check the path and the file's permissions"
        raise Refusal(DATA, f"{error.strerror}", where=str(path), hint=hint) from error
    dataset = DataSet(path)
    rows = _rows_of_lines(content) if path.suffix == ".jsonl" else _rows_of_array(content)
    first_lines: dict[Sample, int] = {}
    for line, row in rows:
        found = row if isinstance(row, RowError) else parse_row(line, row)
        if isinstance(found, RowError):
            dataset.errors.append(found)
            continue
        dataset.samples.append(found)
        key = Sample(0, found.question, found.answer, found.system, found.history)
        if key in first_lines:
            dataset.duplicates.append((line, first_lines[key]))
        else:
            first_lines[key] = line
    return dataset


def require_good(dataset: DataSet) -> None:
    """Return if every row is good and there is one; else raise Refusal naming the bad rows."""
    if dataset.errors:
        shown = [f"line {e.line}: {e.what}: {e.hint}" for e in dataset.errors[:SHOWN_ERRORS]]
        if len(dataset.errors) > SHOWN_ERRORS:
            shown.append(f"and {len(dataset.errors) - SHOWN_ERRORS} more")
        raise Refusal(
            DATA,
            f"{len(dataset.errors)} bad row(s)",
            where=str(dataset.path),
            hint="\n  ".join(shown),
        )
    if not dataset.samples:
        hint = "write one JSON object a line, with instruction and output"
        raise Refusal(DATA, "there is no row in it", where=str(dataset.path), hint=hint)


def parse_row(line: int, row: Any) -> Sample | RowError:
    """The sample that `row` is, or what is wrong with it."""
    if not isinstance(row, dict):
        hint = 'write {"instruction": "…", "input": "", "output": "…"}'
        return RowError(line, f"the row is {_kind(row)}, not an object", hint)
    for key in ("instruction", "output"):
        if key not in row:
            return RowError(line, f"{key} is missing", _rename_hint(row, key))
    for key in ("instruction", "input", "output", "system"):
        value = row.get(key)
        optional = key in {"input", "system"}
        if not isinstance(value, str) and not (optional and value is None):
            return RowError(line, f"{key} is {_kind(value)}, not a text", "put it in quotes")
    for key in ("instruction", "output"):
        if not row[key].strip():
            return RowError(line, f"{key} is empty", "write it, or take the row out")
    history = _parse_history(row.get("history"))
    if history is None:
        hint = 'write [["question", "answer"], …] with texts that are not empty'
        return RowError(line, "history is not a list of question-answer pairs", hint)
    question = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
    sample = Sample(line, question, row["output"], row.get("system") or None, history)
    return _text_error(sample) or sample


def _parse_history(value: Any) -> tuple[tuple[str, str], ...] | None:
    if value is None:
        return ()
    if not isinstance(value, list):
        return None
    turns = []
    for turn in value:
        if not (isinstance(turn, list) and len(turn) == 2):
            return None
        if not all(isinstance(text, str) and text.strip() for text in turn):
            return None
        turns.append((turn[0], turn[1]))
    return tuple(turns)


def _text_error(sample: Sample) -> RowError | None:
    for text in sample.texts():
        for token in CONTROL_TOKENS:
            if token in text:
                hint = "take it out: the template writes it, a text must not"
                return RowError(sample.line, f"a text holds the control token {token}", hint)
        if any("\ud800" <= character <= "\udfff" for character in text):
            hint = "the file was cut or converted wrongly there: write the character itself"
            return RowError(sample.line, "a text holds half a surrogate pair", hint)
    return None


def _rows_of_lines(content: bytes) -> Iterator[tuple[int, Any]]:
    """(line number, row) of each line that is not blank; a RowError stands for a bad row."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    for line, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield line, _encoding_error(line, error)
        except json.JSONDecodeError as error:
            yield line, _json_error(line, error)
        except RecursionError:
            yield line, _too_deep(line)
        else:
            yield line, row


def _rows_of_array(content: bytes) -> Iterator[tuple[int, Any]]:
    """(line number, row) of each element of the array; reading ends at the first broken one."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield line, _encoding_error(line, error)
        return
    newlines = [match.start() for match in re.finditer("\n", text)]

    def line_of(position: int) -> int:
        return bisect_left(newlines, position) + 1

    position = _skip_blanks(text, 0)
    if text[position : position + 1] != "[":
        hint = "write [ {…}, {…} ], or name a file of one object a line .jsonl"
        yield line_of(position), RowError(line_of(position), "the file is not an array", hint)
        return
    decoder = json.JSONDecoder()
    position = _skip_blanks(text, position + 1)
    while text[position : position + 1] != "]":
        line = line_of(position)
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield line_of(error.pos), _json_error(line_of(error.pos), error)
            return
        except RecursionError:
            yield line, _too_deep(line)
            return
        yield line, row
        position = _skip_blanks(text, position)
        if text[position : position + 1] == ",":
            position = _skip_blanks(text, position + 1)
        elif text[position : position + 1] != "]":
            line = line_of(position)
            yield line, RowError(line, "a comma or the closing ] is missing here", "put it in")
            return


def _too_deep(line: int) -> RowError:
    return RowError(line, "the JSON is nested too deeply to be read", "take the nesting out")


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _encoding_error(line: int, error: UnicodeDecodeError) -> RowError:
    what = f"byte {error.start + 1} of the line is not UTF-8"
    return RowError(line, what, "save the file as UTF-8 (it may be GBK)")


def _json_error(line: int, error: json.JSONDecodeError) -> RowError:
    return RowError(line, f"not JSON: {error.msg} (column {error.colno})", "mend it there")


def _rename_hint(row: dict[Any, Any], missing: str) -> str:
    for name in row:
        if _COMMON_NAMES.get(str(name).lower()) == missing:
            return f"rename {name!r} to {missing!r}"
    names = ", ".join(repr(name) for name in list(row)[:8])
    return f"the row has {names or 'no key at all'}; the keys are {', '.join(KEYS)}"


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a text", type(None): "null"}
    if isinstance(value, bool):
        return "true or false"
    return kinds.get(type(value), "a number")
