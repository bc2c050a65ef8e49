from __future__ import annotations

import re
from typing import TYPE_CHECKING

from costguard.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ROWS = """{"instruction":"你好","output":"您好，请问有什么可以帮您？"}
{"instruction":"电话 13812345678","output":"好的"}
{"instruction":"","output":""}
not json
"""


def test_the_trainers_findings_are_told_in_chinese(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It speaks English and knows nothing of us; its exit code stays its own."""
    file = tmp_path / "d.jsonl"
    file.write_text(ROWS, encoding="utf-8")
    assert main(["--lang", "zh", "data", "check", str(file)]) == 65
    said = capfd.readouterr().out
    assert "2 行合格，2 行有误，0 行重复" in said
    assert "第 3 行：instruction 是空的：请补上，或删掉这一行" in said
    assert not re.search("[a-z]{2,} [a-z]{2,} [a-z]{2,}", re.sub("`[^`]*`", "", said))


def test_what_mask_has_replaced_is_told_in_chinese(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And where it refuses, why."""
    file = tmp_path / "d.jsonl"
    file.write_text("".join(ROWS.splitlines(keepends=True)[:2]), encoding="utf-8")
    assert main(["--lang", "zh", "data", "mask", str(file)]) == 0
    assert "共替换 1 处" in capfd.readouterr().out
    assert main(["--lang", "zh", "data", "mask", str(file)]) != 0
    assert "文件已存在" in capfd.readouterr().err
