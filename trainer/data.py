"""Data sets: find the file, read it, and say of each bad row in which line it is and what is wrong.

Standard library only, so that a data set can be judged on a machine without torch.
`formats/` knows the files and the shapes of rows; this module knows the whole.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.exits import DATA, Refusal
from trainer.formats.info import FILE_NAME, describe, describe_file
from trainer.formats.rows import SUFFIXES, read_rows
from trainer.formats.shapes import AUTO, RowFormat, parse_row
from trainer.lang import told
from trainer.progress import warn
from trainer.sample import CONTROL_TOKENS, RowError, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CONTROL_TOKENS", "SHOWN_ERRORS", "DataSet", "Found", "RowError", "Sample", "find",
    "find_dataset", "found_file", "held_out", "parse_row", "read_dataset", "require_good",
]  # fmt: skip

SHOWN_ERRORS = 20


@dataclass(frozen=True)
class Found:
    """A data set's file, and how its rows are to be read."""

    path: Path
    row_format: RowFormat = AUTO


@dataclass
class DataSet:
    """What a file holds: the good samples in their order, the errors, the repeated rows."""

    path: Path
    samples: list[Sample] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    """(line, line of the first row with the same texts)"""

    def bad_percent(self) -> float:
        """The share of rows that cannot be read; 0 of an empty file."""
        rows = len(self.samples) + len(self.errors)
        return 100 * len(self.errors) / rows if rows else 0.0


def find(name: str, directory: Path) -> Found:
    """The data set meant by `--dataset name --dataset_dir directory`; raises Refusal.

    `directory/dataset_info.json` has the first word, a path or `directory/name.jsonl` (.json,
    .csv) does without one.
    """
    if "," in name:
        what = f"--dataset {name} names more than one data set"
        raise Refusal(DATA, what, where="--dataset", hint="give one: put their rows into one file")
    described = describe(name, directory)
    if described:
        path = directory / described.file_name
        if not path.is_file():
            what = f"{FILE_NAME} says {name!r} is {described.file_name}, which is not there"
            raise Refusal(DATA, what, where=str(directory), hint="put it there, or mend the name")
        return Found(path, described.row_format)
    return found_file(_find_file(name, directory))


def found_file(path: Path) -> Found:
    """`path`, read as a `dataset_info.json` beside it says, if there is one that names it."""
    described = describe_file(path)
    return Found(path, described.row_format) if described else Found(path)


def find_dataset(name: str, directory: Path) -> Path:
    """The file alone of what `find` finds."""
    return find(name, directory).path


def read_dataset(path: Path, row_format: RowFormat = AUTO) -> DataSet:
    """Everything in `path`, good and bad; raises Refusal if the file cannot be read at all."""
    if path.suffix not in SUFFIXES:
        raise Refusal(
            DATA,
            f"{path.suffix or 'a file without a suffix'} is not a format that is read here",
            where=str(path),
            hint="give a .jsonl file (one object a line), a .json file (an array of objects) "
            "or a .csv file with a header",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "check the path and the file's permissions"
        raise Refusal(DATA, f"{error.strerror}", where=str(path), hint=hint) from error
    dataset = DataSet(path)
    first_lines: dict[Sample, int] = {}
    for line, row in read_rows(content, path.suffix):
        found = row if isinstance(row, RowError) else parse_row(line, row, row_format)
        if isinstance(found, RowError):
            dataset.errors.append(found)
            continue
        dataset.samples.append(found)
        first = first_lines.setdefault(replace(found, line=0), line)
        if first != line:
            dataset.duplicates.append((line, first))
    return dataset


def require_good(dataset: DataSet, max_bad_percent: float = 0.0) -> None:
    """Return if there is a good row and no more than `max_bad_percent` are bad; else Refusal.

    Bad rows within the limit are named on stderr: they are left out, but not in silence.
    """
    first = dataset.errors[:SHOWN_ERRORS]
    shown = [f"line {e.line}: {told(e.what)}: {told(e.hint)}" for e in first]
    if len(dataset.errors) > SHOWN_ERRORS:
        shown.append(f"and {len(dataset.errors) - SHOWN_ERRORS} more")
    if dataset.errors and (dataset.bad_percent() > max_bad_percent or not dataset.samples):
        what = f"{len(dataset.errors)} bad row(s)"
        raise Refusal(DATA, what, where=str(dataset.path), hint="\n  ".join(shown))
    if not dataset.samples:
        hint = "write one JSON object a line, with instruction and output"
        raise Refusal(DATA, "there is no row in it", where=str(dataset.path), hint=hint)
    if dataset.errors:
        warn(f"{dataset.path}: {len(dataset.errors)} bad row(s) are left out")
        warn("\n".join(f"  {line}" for line in shown))


def held_out(
    samples: Sequence[Sample], val_size: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(to train on, to judge by): `val_size` is a share below 1, else a number of samples.

    Samples with the same texts go to the same side, so that none is judged by what it has learnt.
    The choice depends on the seed and the rows alone, not on what is trained of the rest.
    """
    if val_size <= 0:
        return list(samples), []
    wanted = round(val_size * len(samples)) if val_size < 1 else round(val_size)
    wanted = max(1, wanted)
    if wanted >= len(samples):
        what = f"--val_size {val_size:g} leaves nothing to train on of {len(samples)} samples"
        raise Refusal(DATA, what, where="--val_size", hint="give a smaller one")
    groups: dict[Sample, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(replace(sample, line=0), []).append(index)
    order = list(groups.values())
    # A text seeds Python's generator through SHA-512: the order is the same on any machine.
    random.Random(f"{seed}/held out/{len(samples)}").shuffle(order)  # noqa: S311 - no secret hangs on it
    chosen: set[int] = set()
    for indices in order:
        if len(chosen) + len(indices) <= wanted:
            chosen.update(indices)
    if not chosen:
        what = "no sample can be held out: all are repeated too often"
        raise Refusal(DATA, what, where="--val_size", hint="take the repeated rows out")
    kept = [sample for index, sample in enumerate(samples) if index not in chosen]
    return kept, [samples[index] for index in sorted(chosen)]


def _find_file(name: str, directory: Path) -> Path:
    wanted = Path(name)
    candidates = [wanted] if wanted.suffix in SUFFIXES else []
    candidates += [directory / f"{name}{suffix}" for suffix in SUFFIXES]
    if wanted.suffix in SUFFIXES:
        candidates.append(directory / name)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise Refusal(
        DATA,
        f"there is no data set {name!r}",
        where="--dataset",
        hint=f"looked for {', '.join(map(str, candidates))}: "
        "give the path of a .jsonl file, or a name and --dataset_dir",
    )
