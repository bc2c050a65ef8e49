"""Writing several new files as one: all of them, or, whatever happens, none.

Each is written beside its place and flushed first. Putting them in place takes no overwriting: a
file that is already there stops it, and what was put there before is taken away again.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from costguard.errors import UserError
from costguard.lang import _

SECRET_MODE = 0o600
PLAIN_MODE = 0o644


@dataclass(frozen=True)
class NewFile:
    """A file to be; `replaces`: the text that a person agreed to have replaced, None: nothing."""

    path: Path
    text: str
    mode: int = PLAIN_MODE
    replaces: str | None = None


def write_all(files: list[NewFile]) -> None:
    """Put every file in place; UserError, and nothing changed, where one cannot be.

    A Ctrl-C in between leaves nothing either: the files in place are taken back.
    """
    ready: list[tuple[Path, NewFile]] = []
    done: list[NewFile] = []
    try:
        for file in files:  # one by one: of those prepared, none may be left behind
            temporary = _prepared(file)
            ready.append((temporary, file))
        for temporary, file in ready:
            done.append(file)
            _place(temporary, file)
    except BaseException as error:
        for file in done:
            _take_back(file, {temporary for temporary, each in ready if each is file})
        if isinstance(error, OSError):
            what = _("it cannot be written: {why}").format(why=error.strerror or error)
            hint = _("nothing was written")
            raise UserError("not_written", what, str(error.filename or ""), hint) from error
        raise
    finally:
        for temporary, _file in ready:
            temporary.unlink(missing_ok=True)


def _prepared(file: NewFile) -> Path:
    """The text on the disk beside its place, with its mode from the first byte on."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.path.parent, prefix=".costguard-")  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(file.text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(file.mode)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _place(temporary: Path, file: NewFile) -> None:
    if file.replaces is not None:
        temporary.replace(file.path)
        return
    try:
        os.link(temporary, file.path)
    except FileExistsError:
        what = _("it is there already, and nothing here is overwritten")
        hint = _("nothing was written")
        raise UserError("exists", what, str(file.path), hint) from None


def _take_back(file: NewFile, temporaries: set[Path]) -> None:
    """Undo one file that may or may not have got to its place."""
    if file.replaces is not None:
        again = _prepared(NewFile(file.path, file.replaces, file.mode))
        again.replace(file.path)
        return
    for temporary in temporaries:
        if file.path.exists() and file.path.samefile(temporary):
            file.path.unlink()
