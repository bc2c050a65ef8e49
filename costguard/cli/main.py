"""The way into the command line: language, streams, errors and exit codes, for every command.

Nothing heavy is imported here. `status` alone, the command that people and scripts call again and
again, is answered without Typer; every other spelling of it goes through Typer and does the same.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import TYPE_CHECKING

from costguard.cli.text import never_crash_on_encoding
from costguard.errors import EXIT_INTERNAL, EXIT_USAGE, UserError
from costguard.lang import LANGUAGES, _, select

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 1  # as Typer has it


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of `costguard ARGV`; errors are told on the way, none gets past here."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    never_crash_on_encoding(sys.stdout, sys.stderr)
    as_json = "--json" in arguments
    try:
        arguments, language = _without_language(arguments)
        select(language)
        code = _dispatch(arguments)
        sys.stdout.flush()
    except UserError as error:
        return tell_error(error, as_json=as_json)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `costguard report | head`: nobody reads on, and the interpreter must not say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except Exception as error:  # noqa: BLE001  (the last resort: one line, not a page of traceback)
        return tell_error(_internal(error), as_json=as_json)
    return code


def tell_error(error: UserError, *, as_json: bool) -> int:
    """Write the error, as a document to stdout or for a person to stderr; its exit code."""
    if as_json:
        print(json.dumps({"error": error.to_json()}))
        return error.exit_code
    from costguard.retell import retell

    lines = [f"costguard: {retell(error.what)}"]
    if error.where:
        lines.append(_("  where: {where}").format(where=retell(error.where)))
    if error.hint:
        lines.append(_("  do: {hint}").format(hint=retell(error.hint)))
    print("\n".join(lines), file=sys.stderr)
    return error.exit_code


def _dispatch(arguments: list[str]) -> int:
    plain = [word for word in arguments[1:] if word != "--json"]
    simple = len(plain) <= 1 and not any(word.startswith("-") for word in plain)
    if arguments[:1] == ["status"] and simple:
        from costguard.cli.reading import show_status

        return show_status(plain[0] if plain else None, as_json="--json" in arguments)
    from costguard.cli.app import run_app

    return run_app(arguments)


def _without_language(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without `--lang X`, which may stand anywhere, and the X."""
    kept: list[str] = []
    language: str | None = None
    words = iter(arguments)
    for word in words:
        if word == "--":
            kept += [word, *words]
        elif word == "--lang":
            language = _language(next(words, ""))
        elif word.startswith("--lang="):
            language = _language(word.removeprefix("--lang="))
        else:
            kept.append(word)
    return kept, language


def _language(word: str) -> str:
    if word in LANGUAGES:
        return word
    what = _("{value} is no language here").format(value=repr(word))
    raise UserError("usage", what, "--lang", " | ".join(LANGUAGES), EXIT_USAGE)


def _internal(error: Exception) -> UserError:
    if os.environ.get("COSTGUARD_TRACEBACK"):
        traceback.print_exc()
    return UserError(
        "internal",
        _("internal error: {kind}: {text}").format(kind=type(error).__name__, text=error),
        "",
        _("set COSTGUARD_TRACEBACK=1 to see where, and report it; the daemon is not affected"),
        EXIT_INTERNAL,
    )
