from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import costguard
from costguard.cli.main import main

if TYPE_CHECKING:
    from tests.cli.conftest import FakeDaemon

ANSWERS = {
    "status": {"schema": "costguard.status/1", "daemon": {"running": True, "pid": 1}, "jobs": []},
    "budget_show": {"schema": "costguard.budget/1", "budgets": []},
    "logs": {"last": 0, "lines": []},
}


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (["status"], "status"),
        (["budget", "show"], "budget"),
        (["logs", "kefu"], "logs"),
        (["daemon", "status"], "daemon"),
        (["doctor"], "doctor"),
        (["offers"], "offers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_json_is_one_document_that_says_what_it_is(
    arguments: list[str], schema: str, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else comes to stdout, whatever the language; others test what is in it."""
    daemon.answers |= ANSWERS
    assert main(["--lang", "zh", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == f"costguard.{schema}/1"


def test_every_schema_has_a_name_and_a_version() -> None:
    """A script can tell a later document from one that it knows."""
    found = [
        text
        for path in Path(costguard.__file__).parent.rglob("*.py")
        for text in re.findall(r'"schema": "([^"]*)"', path.read_text(encoding="utf-8"))
    ]
    assert found
    assert [text for text in found if not re.fullmatch(r"costguard\.[a-z_]+/[1-9]\d*", text)] == []
