from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard import lang
from costguard.errors import UserError
from costguard.jobfile import load_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = """
[job]
name = "kefu"
budget_yuan = 80
[instance]
provider = "local"
gpu = "RTX 3090"
[training]
model_name_or_path = "Qwen/Qwen2.5-7B-Instruct"
dataset = "train.jsonl"
"""
GOOD = '{"instruction": "问", "output": "答"}\n'
BAD = '{"instruction": "问"}\n'


@pytest.fixture
def zh() -> Iterator[None]:
    """A person who reads Chinese."""
    lang.select("zh")
    yield
    lang.select("en")


@pytest.mark.usefixtures("zh")
@pytest.mark.parametrize(
    ("key", "data", "what", "hint"),
    [
        ("use_dora = true", GOOD, "不支持 `use_dora` true", "不支持 DoRA：去掉它，用 LoRA"),
        (
            "lora_rank = 0",
            GOOD,
            "必须不小于 1，不能是 0",
            "全部可用的键：python -m trainer train --help",
        ),
        (
            "",
            BAD * 4,
            (
                "数据集不合格：第 1 行：缺少 output；第 2 行：缺少 output；第 3 行：缺少 output；"
                "还有 1 处"
            ),
            "这一行有 'instruction'；可用的键是 instruction",
        ),
    ],
    ids=["flag", "value", "rows"],
)
def test_what_the_trainer_refuses_is_told_in_chinese(
    key: str, data: str, what: str, hint: str, tmp_path: Path
) -> None:
    """Its word on a flag, with the key in its place, and on the rows of a data set."""
    (tmp_path / "train.jsonl").write_text(data, encoding="utf-8")
    (tmp_path / "job.toml").write_text(JOB + key, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_job(tmp_path / "job.toml")
    assert caught.value.what == what
    assert caught.value.hint.startswith(hint)
