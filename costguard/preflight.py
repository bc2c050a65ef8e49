"""What is looked at on this disk before anything is rented: the data set, judged by the trainer.

The trainer is a program of its own, so that its judgement here and there is the same one: a
subprocess and a JSON document are the border.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import costguard
from costguard.errors import EXIT_INTERNAL, UserError
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.tomlfile import TomlFile

CHECK_SCHEMA = "costguard.datacheck/1"
CHECK_TIMEOUT_S = 900
EXIT_DATA = 65
ERRORS_SHOWN_MAX = 3

# The trainer's own parser is asked, so that its flags are written down in one place alone.
FLAGS_PROBE = """
import json, sys
from trainer.exits import Refusal
from trainer.flags import parse_train
try:
    config = parse_train(sys.argv[1:])
except Refusal as refusal:
    print(json.dumps({"what": refusal.what, "where": refusal.where, "hint": refusal.hint}))
    sys.exit(0)
names = ("samples_per_step per_device_train_batch_size num_train_epochs max_steps max_samples"
         " val_size cutoff_len quantization_bit save_steps")
facts = {name: getattr(config, name) for name in names.split()}
print(json.dumps({**facts, "eval_steps": config.run.eval_steps}))
"""

_FLAG = re.compile(r"--(\w+)")


def trainer_root() -> Path:
    """The folder of the trainer package that came with this costguard.

    Its neighbour, not whatever `import trainer` would find: a folder of that name where the
    person happens to stand must not be what is uploaded.
    """
    root = Path(costguard.__file__).resolve().parent.parent / "trainer"
    if not (root / "__main__.py").is_file():
        raise UserError(
            "no_trainer",
            _("the trainer package is not installed beside costguard"),
            str(root),
            _("install costguard anew"),
            EXIT_INTERNAL,
        )
    return root


def trainer_command(*arguments: str) -> tuple[list[str], Path]:
    """The command line of the trainer here, and the folder to run it in."""
    return [sys.executable, "-m", "trainer", *arguments], trainer_root().parent


def require_file(file: TomlFile, name: str | None, place: tuple[str, ...]) -> Path:
    """The absolute path of a file that the job file names; UserError if it is none, or empty."""
    hint = _("paths are relative to the job file")
    if not name:
        raise file.error(
            "missing_dataset", _("`{key}` is missing").format(key=place[-1]), place[:1], _("add it")
        )
    path = (file.path.parent / Path(name).expanduser()).absolute()
    what = None
    if not path.exists():
        what = _("{path} does not exist")
    elif not path.is_file():
        what = _("{path} is not a file")
    elif path.stat().st_size == 0:
        what = _("{path} is empty")
    if what:
        raise file.error("missing_dataset", what.format(path=path), place, hint)
    return path


def check_flags(file: TomlFile, flags: list[str]) -> RunFacts:
    """What the trainer makes of these flags; UserError at the key that it refuses."""
    refusal = _asked_flags(flags, file.path)
    if "what" not in refusal:
        return _facts_of(refusal)
    what, where, hint = (str(refusal[key]) for key in ("what", "where", "hint"))
    named = _FLAG.search(what) or _FLAG.search(where)
    unknown = what.startswith("unknown flag")
    asks_for_help = "--help" in hint
    # Told before its flags become keys: it is known by its own words.
    what, hint = retell(re.sub(r"^argument \S+ ", "", what)), retell(hint)
    if named is None and where in flags:  # it names a value: the flag stands before it
        named = _FLAG.search(flags[flags.index(where) - 1])
    place = ("training", named[1]) if named else ("training",)
    if named and unknown:
        what = _("unknown key `{key}`").format(key=named[1])
    if asks_for_help:
        hint = _("every key: python -m trainer train --help")
    else:
        hint = _FLAG.sub(r"`\1`", hint)
    raise file.error("bad_job_file", _FLAG.sub(r"`\1`", what), place, hint)


@dataclass(frozen=True, slots=True)
class DataReport:
    """What the trainer's check says of a data set that it passes."""

    samples: int
    tokens: int  # of all samples, once
    longest_tokens: int
    counted_by: str  # characters (an estimate), or the tokenizer
    histogram: tuple[tuple[int, int], ...]  # the bin's upper edge in tokens, samples in it


def data_report(path: Path, flags: Sequence[str] = ()) -> DataReport:
    """The trainer's findings; UserError where it refuses the data. Asked once as long as it stays.

    The judgement before a run and its estimate are of one and the same reading. `flags` are those
    of the run that change the judgement, as the run itself will have them.
    """
    beside = path.with_name("dataset_info.json")
    stamps = [each.stat() for each in (path, beside) if each.exists()]
    stamp = (*((each.st_mtime_ns, each.st_size) for each in stamps), trainer_root())
    return _judged(path, tuple(flags), stamp)


@cache
def _judged(path: Path, flags: tuple[str, ...], stamp: tuple[object, ...]) -> DataReport:
    del stamp  # another file under the same name is judged anew
    done = _run([sys.executable, "-m", "trainer", "check", str(path), "--json", *flags])
    report = _json_object(done.stdout)
    if "error" in report:
        refused = report["error"]
        raise UserError(
            "bad_dataset",
            _("the data set was refused: {what}").format(what=retell(refused["what"])),
            str(path),
            retell(str(refused["hint"])),
        )
    if report.get("schema") != CHECK_SCHEMA or done.returncode not in {0, EXIT_DATA}:
        raise _checker_failed(path, _last_line(done))
    if done.returncode == EXIT_DATA:
        raise _bad_data(path, report)
    tokens = report["tokens"]
    longest = int(tokens["longest"])
    return DataReport(
        samples=int(report["samples"]),
        tokens=int(tokens["total"]),
        longest_tokens=longest,
        counted_by=str(tokens["counted_by"]),
        histogram=tuple(
            (min(int(each["below"] or longest), longest), int(each["samples"]))
            for each in tokens["histogram"]
            if each["samples"]
        ),
    )


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the trainer makes of a run's flags: its own defaults filled in."""

    samples_per_step: int
    batch_size: int
    epochs: Fraction
    max_steps: int | None
    max_samples: int | None
    val_size: Fraction
    cutoff_len: int
    in_4_bits: bool
    eval_steps: int  # 0: at each epoch's end
    save_steps: int


def run_facts(flags: Sequence[str]) -> RunFacts:
    """The run's size by the trainer's own parser; UserError where it refuses the flags."""
    found = _asked_flags(flags, Path())
    if "what" in found:
        raise _checker_failed(Path(), str(found["what"]))
    return _facts_of(found)


def _asked_flags(flags: Sequence[str], path: Path) -> dict[str, Any]:
    """The parser's facts, or its refusal; UserError where it gives neither."""
    done = _run([sys.executable, "-c", FLAGS_PROBE, *flags])
    found = _json_object(done.stdout)
    if done.returncode != 0 or not found:
        raise _checker_failed(path, _last_line(done))
    return found


def _facts_of(found: dict[str, Any]) -> RunFacts:
    return RunFacts(
        samples_per_step=found["samples_per_step"],
        batch_size=found["per_device_train_batch_size"],
        epochs=Fraction(str(found["num_train_epochs"])),
        max_steps=found["max_steps"] if found["max_steps"] > 0 else None,
        max_samples=found["max_samples"],
        val_size=Fraction(str(found["val_size"])),
        cutoff_len=found["cutoff_len"],
        in_4_bits=found["quantization_bit"] == 4,
        eval_steps=found["eval_steps"],
        save_steps=found["save_steps"],
    )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """The trainer's process, ended; run beside its package, so that this is the one it finds."""
    try:
        return subprocess.run(
            command,
            cwd=trainer_root().parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _checker_failed(Path(command[-1]), _("it took too long")) from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]


def _bad_data(path: Path, report: dict[str, Any]) -> UserError:
    errors = report["errors"] or [{"what": _("there is no row in it"), "hint": ""}]
    shown = _("; ").join(
        _("line {line}: {what}").format(line=item["line"], what=retell(item["what"]))
        if item.get("line")
        else retell(str(item["what"]))
        for item in errors[:ERRORS_SHOWN_MAX]
    )
    more = int(report.get("error_count", len(errors))) - min(len(errors), ERRORS_SHOWN_MAX)
    if more > 0:
        shown += _("; ") + _("and {count} more").format(count=more)
    line = f":{errors[0]['line']}" if errors[0].get("line") else ""
    hint = retell(str(errors[0].get("hint") or _("mend it")))
    return UserError(
        "bad_dataset",
        _("the data set was refused: {what}").format(what=shown),
        f"{path}{line}",
        _("{hint} (all of it: costguard data check {path})").format(hint=hint, path=path),
    )


def _checker_failed(path: Path, why: str) -> UserError:
    return UserError(
        "check_failed",
        _("the data set could not be checked: {why}").format(why=why),
        str(path),
        _("see what `python -m trainer check` says about it"),
    )
