"""`make locale`: the catalogues of costguard and the trainer brought up to the code, compiled.

Each `.po` gets what is said and was not in it, with its Chinese still to be written, and loses what
nobody says any more; then its `.mo` is made, which is what runs. Any file named, a JSON object of
English to Chinese, fills in what has none yet.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import costguard
from costguard.lang import catalogue_path
from tests.daemon_texts import evidence_names, sentences
from tests.trainer_texts import trainer_sentences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babel.messages import Catalog

PACKAGE = Path(costguard.__file__).parent
# What Typer and its Click say of a mistyped command line, in the versions that were looked at.
USAGE = {
    *("Missing command.", "Missing argument {}.", "Missing option {}."),
    *("No such command {}.", "No such option: {}", "Possible options: {}", "Did you mean {}?"),
    *("Got unexpected extra argument(s) ({})", "Got unexpected extra argument ({})"),
    *("Got unexpected extra arguments ({})", "Option {} requires an argument."),
    *("Option {} does not take a value.", "Invalid value for {}: {}", "{} is not a valid integer."),
    "Input should be a valid integer, unable to parse string as an integer",
    *(
        "Input should be a valid number, unable to parse string as a number",
        "{} is not a valid float.",
    ),
}
# And the system of a file.
SYSTEM = {
    *("No such file or directory", "Permission denied", "Is a directory", "Not a directory"),
    *("No space left on device", "File exists", "Read-only file system"),
}
# Ends of the daemon's sentences and single words, which stand in the blanks of others; what a
# person asked for.
PARTS = {
    *(" from {}", " at {}", "forecast: {}", "above", "below", "daemon", "agent"),
    *("job {}", "project {}", "month {}"),
    *("model", "checkpoints", "bring home", "talk to", "export"),
    *("pause was asked for", "release was asked for"),
    *("phase {} is silent for {} s", "no end of phase {} for {} s"),
}


def said() -> dict[str, dict[str, str]]:
    """For each domain what the code says in it, and the module that does ('' where many do)."""
    daemon = {text: at.partition(":")[0] for text, at in sentences().items()}
    parts = dict.fromkeys(evidence_names() | PARTS | USAGE | SYSTEM, "")
    return {
        "costguard": messages(),
        "daemon": {**parts, **daemon},
        "trainer": trainer_sentences(),
    }


def messages() -> dict[str, str]:
    """Every text that some module of ours puts through `_`, and the first that does."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "_"
            ):
                (text,) = node.args
                assert isinstance(text, ast.Constant), f"{path}:{node.lineno}: not a plain text"
                found.setdefault(str(text.value), path.relative_to(PACKAGE).as_posix())
    return found


def read(domain: str) -> Catalog:
    """What the translators' file of a domain has."""
    from babel.messages.pofile import read_po

    with catalogue_path("zh", domain).with_suffix(".po").open("rb") as file:
        return read_po(file, locale="zh_CN")


def bring_up(domain: str, sources: Mapping[str, str], more: Mapping[str, str]) -> list[str]:
    """Write both files of a domain; what still has no Chinese is returned."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import write_po

    old = read(domain)
    for text in [message.id for message in old if message.id and message.id not in sources]:
        old.delete(text)
    missing = []
    for text, module in sources.items():
        message = old.get(text) or old.add(text)
        message.string = message.string or more.get(text, "")
        path = module if module.startswith("trainer/") else f"costguard/{module}"
        message.locations = [(path, 1)] if module else []
        # Babel takes a percent sign for C's; the daemon's blanks are put in order anew.
        named = domain == "costguard" and re.search(r"\{\w+", text)
        message.flags = {"python-brace-format"} if named else set()
        missing += [] if message.string else [text]
    compiled = catalogue_path("zh", domain)
    with compiled.with_suffix(".po").open("wb") as file:
        write_po(file, old, width=0, sort_output=True, include_lineno=False)
    with compiled.open("wb") as file:
        write_mo(file, old)
    return missing


def main(files: list[str]) -> int:
    """Bring every domain up; 1 if something has no Chinese yet."""
    more = {}
    for file in files:
        more.update(json.loads(Path(file).read_text(encoding="utf-8")))
    missing = [
        text for domain, sources in said().items() for text in bring_up(domain, sources, more)
    ]
    for text in missing:
        print(f"no Chinese yet: {text!r}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
