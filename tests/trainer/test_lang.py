"""Everything that the trainer says can be said in Chinese, and JSON and logs stay as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.catalogues import read
from tests.trainer_texts import trainer_sentences
from trainer import lang
from trainer.__main__ import USAGE_TEXT, main
from trainer.exits import DATA, Refusal
from trainer.interview import Question, as_table, columns, hold
from trainer.lang import sentences, told

ROOT = Path(__file__).parents[2]
HAN = re.compile(r"[\u4e00-\u9fff]")
BLANKS = re.compile(r"\{\d*\}")


@pytest.fixture
def zh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who reads Chinese."""
    monkeypatch.setenv("LANGUAGE", "zh_CN")


def test_every_sentence_has_its_chinese_and_none_is_left_over() -> None:
    """`make locale` adds what is new, and takes out what nobody says any more."""
    assert sentences().keys() == trainer_sentences().keys()


def test_what_runs_is_what_the_translators_file_says() -> None:
    """The `.mo` is compiled and kept, and nothing in it waits for its Chinese."""
    written = {message.id: message.string for message in read("trainer") if message.id}
    assert dict(sentences()) == written
    assert all(written.values())


def test_translations_keep_every_blank() -> None:
    """A figure that is lost would be a lie, one that is there twice a riddle."""
    for english, chinese in sentences().items():
        blanks = BLANKS.findall(chinese)
        assert len(blanks) == english.count("{}"), english
        numbers = [int(blank[1:-1]) for blank in blanks if blank != "{}"]
        assert numbers == [] or sorted(numbers) == list(range(1, len(blanks) + 1)), english


@pytest.mark.parametrize(
    ("environment", "is_chinese"),
    [
        ({"LANGUAGE": "zh_CN", "LANG": "C"}, True),
        ({"LANGUAGE": "en", "LANG": "zh_CN.UTF-8"}, False),
        ({"LANGUAGE": "", "LC_ALL": "zh_CN.UTF-8"}, True),
        ({"LANGUAGE": "", "LC_ALL": "", "LC_MESSAGES": "", "LANG": ""}, False),
    ],
)
def test_the_environment_chooses_as_it_does_for_gettext(
    environment: dict[str, str], is_chinese: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first variable that is set decides."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (told("one card trains") == "只用一张卡训练") is is_chinese


@pytest.mark.usefixtures("zh")
@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "step 3/84  loss 1.2345  lr 1.00e-04  left 0:01:12",
            "第 3/84 步  损失 1.2345  学习率 1.00e-04  还需 0:01:12",
        ),
        (
            "--report_to is passed over: the log is in --output_dir",
            "--report_to 被忽略：日志在 --output_dir 里",
        ),
        ("8 of 10 right", "10 题答对 8 题"),
        ("    one card trains", "    只用一张卡训练"),
        ("one card trains\n  no card of ours", "只用一张卡训练\n  no card of ours"),
        (
            "plan (measured by plan): passes of up to 9 tokens, layers compiled; packs of 8 tokens",
            "方案（由 plan 实测）：每次前向最多 9 个 token，编译各层；每包 8 个 token",
        ),
        (
            "save the file as UTF-8: iconv -f GB18030 -t UTF-8 OLD > NEW (it may be GBK)",
            "请存成 UTF-8：iconv -f GB18030 -t UTF-8 OLD > NEW（可能是 GBK）",
        ),
        ("what a model answers, as it stands (so)", "what a model answers, as it stands (so)"),
    ],
)
def test_a_sentence_is_told_with_what_stood_in_its_blanks(english: str, chinese: str) -> None:
    """Pieces of it too; what is not ours stays as it is."""
    assert told(english) == chinese


@pytest.mark.usefixtures("zh")
def test_a_log_is_not_looked_through_and_a_missing_catalogue_is_no_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then it speaks English."""
    long = "one card trains" + " " * lang.LENGTH_MAX
    assert told(long) == long
    monkeypatch.setattr(lang, "CATALOGUE", tmp_path / "none.mo")
    sentences.cache_clear()
    lang._patterns.cache_clear()
    assert told("one card trains") == "one card trains"
    sentences.cache_clear()
    lang._patterns.cache_clear()


@pytest.mark.usefixtures("zh")
def test_a_refusal_is_told_in_all_its_parts() -> None:
    """Where, what and what to do; what a program reads of it stays English."""
    refusal = Refusal(DATA, "there is no row in it", where="the probe", hint="take it out\nmend it")
    assert refusal.text() == "试跑：里面一行数据也没有\n  删掉它\n请改正"
    assert (refusal.what, refusal.where) == ("there is no row in it", "the probe")


@pytest.mark.usefixtures("zh")
def test_the_interviews_table_stands_straight_in_chinese() -> None:
    """Heads and verdicts of one width, the answers as the model gave them."""
    question = Question(1, "发票怎么开", (("电子发票",),), ("right",))
    tuned = hold([question], lambda _question: "right")
    head, row, lacks, forbidden, total = as_table(tuned, tuned)
    assert head.split() == ["问题", "基座", "训练后", "回答"]
    assert row.split() == ["1", "发票怎么开", "错", "错", "right"]
    assert columns(head[: head.index("回答")]) == columns(row[: row.index("right")])
    assert (lacks, forbidden) == ("       缺少：电子发票", "       不该说：right")
    assert total == "1 题答对 0 题；只用基座：0"


@pytest.mark.usefixtures("zh")
def test_findings_of_check_are_chinese_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line of it; the JSON of the same data is in English."""
    path = tmp_path / "train.jsonl"
    rows = [
        {"instruction": "您好，我叫王小明，手机 13812345678", "output": "好的哦"},
        {"instruction": "退货", "output": "您可以退"},
        {"instruction": "退货", "output": "您可以退"},
        {"instruction": "退货", "output": "不行"},
        {"instruction": "缺"},
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert main(["check", str(path), "--max_bad_percent", "90", "--cutoff_len", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not HAN.search(line) and "#" not in line] == []
    assert "  第 5 行：缺少 output：这一行有 'instruction'；" in "\n".join(lines)
    assert not re.search(r"\b(samples?|rows?|lines?|tokens a)\b", "".join(lines[1:]))
    assert main(["check", str(path), "--json"]) == DATA
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert (error["line"], error["what"]) == (5, "output is missing")


@pytest.mark.usefixtures("zh")
@pytest.mark.parametrize("command", ["check", "mask", "train", "chat", "export", "make-model"])
def test_help_is_chinese(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage, the heads of its parts, and what each flag is."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("用法：")
    for line in shown.partition("\n\n")[2].splitlines():
        words = re.sub(r"-{1,2}[A-Za-z]\w*( \[?[A-Z_]+\]?| \{.*?\})?|\{.*?\}", "", line)
        assert HAN.search(line) or not re.search(r"[a-z]+ [a-z]+", words.replace(" or ", "|")), line


@pytest.mark.usefixtures("zh")
def test_a_mistyped_command_is_answered_in_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the program, and of argparse."""
    assert main(["chekc"]) == 2
    assert capsys.readouterr().err == f"没有命令 'chekc'\n{sentences()[USAGE_TEXT]}\n"
    assert main(["chat", "--top_k", "x", "--model_name_or_path", "m"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("参数 --top_k：不是有效的 int：'x'\n  全部参数见")
    with pytest.raises(SystemExit):
        main(["check", "--cutoff_len", "0", "f"])
    assert "参数 --cutoff_len：必须不小于 1，不能是 0" in capsys.readouterr().err


def test_a_terminal_without_chinese_gets_english(tmp_path: Path) -> None:
    """Question marks help nobody."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "check", str(tmp_path / "none.jsonl")],
        cwd=ROOT,
        env={**os.environ, "LANGUAGE": "zh_CN", "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert b"check the path and the file's permissions" in done.stderr
