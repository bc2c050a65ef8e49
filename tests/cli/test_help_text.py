from __future__ import annotations

import re

import pytest

from costguard.cli.help_text import help_in_words
from costguard.cli.main import main
from costguard.cli.text import width

COMMANDS: tuple[list[str], ...] = (
    [],
    ["report"],
    ["run"],
    ["data", "mask"],
    ["init"],
    ["doctor"],
    ["simulate"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_frame_of_a_help_page_is_chinese(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Typer's headings and marks, and no line is wider than the terminal."""
    assert main(["--lang", "zh", *command, "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("用法：costguard")
    assert not re.search(r"Usage|Options:|Commands:|Show this|Install|Show|required", page)
    assert [line for line in page.splitlines() if width(line) > 80] == []


def test_help_without_arguments_is_chinese_too(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a usage mistake, with the page for an answer."""
    assert main(["--lang", "zh", "data"]) == 2
    assert capsys.readouterr().err.startswith("用法：costguard data")


def test_english_help_stays_as_typer_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is caught on its way but to be said in other words."""
    assert main(["report", "--help"]) == 0
    page = capsys.readouterr().out
    assert "Show this message and exit." in page
    assert help_in_words(page) == page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "没有 'frob' 这个命令"),
        (["report", "--frob"], "没有这个选项：--frob"),
        (["status", "a", "b"], "多出了参数：b"),
        (["run"], "缺少参数 'JOB.toml'"),
        (["simulate", "--seeds", "x"], "'--seeds' 的值无效"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_usage_mistakes_are_told_in_chinese(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Typer says of a mistyped line is retold as the daemon's sentences are."""
    assert main(["--lang", "zh", *arguments]) == 2
    assert said in capsys.readouterr().err
