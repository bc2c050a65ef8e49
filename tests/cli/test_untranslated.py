"""What the command line says goes through `_`: found by reading its source, not by luck."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import costguard
from tests.daemon_texts import literals

ROOT = Path(costguard.__file__).parent
PLACES = ("cli/*.py", "demo/main.py", "demo/verdict.py", "*.py")
SENTENCE = re.compile(r"[A-Za-z]{2,}[,:;]? [a-z]{2,}")
# Texts with words in a row that are no sentence, each kind with its reason.
NO_SENTENCE = re.compile(
    r"costguard (\w+|\{\})( |$)"  # a command to type
    r"|(pip install|chmod|python -m|cd \{\}|exec) ?"  # and those of others
    r"|[a-z0-9_]+(( \||,) [a-z0-9_]+)+$"  # the values that an option takes
    r"|(\[\[?\w+\]\]?|resume|doctor|budget) (-*\w+|\{\})$"  # a place in a file or on a command line
    r"|<|\{\}<|default-src| class="  # HTML
    r"|\^|\\s"  # a pattern that is matched, not said
    r"|(bold|green) \w+$"  # styles
    r"|\nimport |\n?option "  # a program for another interpreter
)
# Keys by which a document's findings are looked up, and said by another word.
KEYS = {"stop from inside", "host key", "release clock", "timer read back", "timer fires"} | {
    *("timer lateness", "login after a resume"),
}
ELSEWHERE = {
    # What Typer says, to be found in its help.
    r"Show this message and exit\.",
    r"Install completion for the current shell\.",
    r"Show completion for the current shell, to copy it or\s+customize the installation\.",
    "unknown flag",  # a code, compared
    '# notify: [notify] quiet = "23:00-07:30", morning = "08:00"',  # a line of the config
    "  {invariant}, seed {seed}, tick {tick}: {detail}",  # of the simulator, for its engineers
}


def untranslated(path: Path) -> list[str]:
    """The sentences of a module that no catalogue can reach."""
    return [
        f"{path.name}:{line}: {text}"
        for text, line in literals(ast.parse(path.read_text(encoding="utf-8")))
        if SENTENCE.search(re.sub(r"\{\w*\}|`[^`]*`", "", text))
        and not NO_SENTENCE.match(text)
        and text not in KEYS | ELSEWHERE
    ]


@pytest.mark.parametrize("place", PLACES)
def test_every_sentence_of_the_command_line_can_be_said_in_chinese(place: str) -> None:
    """A text that reads like a sentence is put through `_`, or stands among the exceptions."""
    paths = sorted(ROOT.glob(place))
    assert paths
    assert [found for path in paths for found in untranslated(path)] == []


def test_no_exception_is_kept_that_nothing_needs() -> None:
    """A list that only grows would hide the next one."""
    texts = {
        text
        for place in PLACES
        for path in ROOT.glob(place)
        for text, _line in literals(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert texts >= KEYS | ELSEWHERE


def test_the_rule_would_find_one(tmp_path: Path) -> None:
    """A sentence raised as it stands, with blanks or without; not one that goes through `_`."""
    module = tmp_path / "module.py"
    module.write_text('raise E(f"no job {name} was found")\nprint(_("all is well here"))\n')
    assert untranslated(module) == ["module.py:1: no job {} was found"]
