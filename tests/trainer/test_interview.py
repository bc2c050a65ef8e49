from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest

from trainer.data import read_dataset
from trainer.exits import DATA, Refusal
from trainer.interview import (
    Question,
    as_json,
    as_table,
    hold,
    judge,
    pad,
    read_questions,
)

if TYPE_CHECKING:
    from pathlib import Path

INVOICE = Question(1, "发票怎么开", (("电子发票",), ("邮箱", "邮件")), ("纸质",))


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("answer", "missing", "forbidden"),
    [
        ("支持电子发票，请提供邮箱。", (), ()),
        ("支持电子发票，发邮件给您", (), ()),
        ("请提供邮箱", ("电子发票",), ()),
        ("电子发票", ("邮箱|邮件",), ()),
        ("电子发票发到邮箱，纸质也可以", (), ("纸质",)),
        ("", ("电子发票", "邮箱|邮件"), ()),
    ],
)
def test_an_answer_is_judged_by_what_it_must_hold(
    answer: str, missing: tuple[str, ...], forbidden: tuple[str, ...]
) -> None:
    """All of `must`, one of each choice, none of `must_not`."""
    verdict = judge(INVOICE, answer)
    assert (verdict.missing, verdict.forbidden) == (missing, forbidden)
    assert verdict.right is (not missing and not forbidden)


def test_width_case_and_blanks_do_not_matter() -> None:
    """A right answer is not failed for its spelling of a number."""
    question = Question(1, "电话", (("400-800-1234",), ("App",)))
    assert judge(question, "请拨４００－８００－１２３４，或用 APP").right


def test_questions_are_read_with_all_their_parts(tmp_path: Path) -> None:
    """A text alone stands for a list of one; choices are parted; blank lines are none."""
    row = {"question": "问", "must": "甲|乙", "must_not": ["丙"], "system": "你是",
           "history": [["早", "好"]]}  # fmt: skip
    (question,) = read_questions(write(tmp_path / "q.jsonl", row, ""))
    assert question == Question(1, "问", (("甲", "乙"),), ("丙",), "你是", (("早", "好"),))
    array = tmp_path / "q.json"
    array.write_text(json.dumps([row, row]), encoding="utf-8")
    assert len(read_questions(array)) == 2


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "not JSON"),
        ([], "an array, not an object"),
        ({"must": "a"}, "question is missing"),
        ({"question": " ", "must": "a"}, "question is missing or empty"),
        ({"question": "问"}, "nothing is asked of the answer"),
        ({"question": "问", "must": 7}, "must and must_not are texts"),
        ({"question": "问", "must": [" "]}, "must and must_not are texts"),
        ({"question": "问", "must": "|"}, "without anything in it"),
        ({"question": "问", "must": "a", "musn't": "b"}, "unknown key"),
        ({"question": "问", "must": "a", "system": 7}, "system is a number"),
        ({"question": "问", "must": "a", "history": [["x"]]}, "history is not"),
    ],
)
def test_a_bad_question_is_named_by_its_line(tmp_path: Path, row: Any, what: str) -> None:
    """All of them in one refusal: an interview with half its questions proves nothing."""
    good = {"question": "问", "must": "a"}
    with pytest.raises(Refusal) as caught:
        read_questions(write(tmp_path / "q.jsonl", good, row, good))
    assert caught.value.exit_code == DATA
    assert caught.value.hint.startswith("line 2: ")
    assert what in caught.value.hint


def test_a_file_without_a_question_is_refused(tmp_path: Path) -> None:
    """Empty, absent, or of another format."""
    with pytest.raises(Refusal, match="no question"):
        read_questions(write(tmp_path / "q.jsonl"))
    with pytest.raises(Refusal, match="No such file"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(Refusal, match="is not read"):
        read_questions(tmp_path / "q.csv")


def test_the_table_shows_base_and_tuned_side_by_side() -> None:
    """A verdict each, what is lacking below, the sum at the end."""
    tuned = hold([INVOICE], lambda _question: "电子发票发到邮箱")
    base = hold([INVOICE], lambda _question: "不知道，纸质吧")
    lines = as_table(tuned, base)
    assert "wrong  right  电子发票发到邮箱" in lines[1]
    assert lines[-1] == "1 of 1 right; the base alone: 0"
    assert "       lacks: 邮箱|邮件" in as_table(base, None)
    assert "       must not say: 纸质" in as_table(base, None)


def test_the_json_is_the_same_table() -> None:
    """Counts, and each answer with what is wrong with it."""
    tuned = hold([INVOICE], lambda _question: "电子发票发到邮箱")
    base = hold([INVOICE], lambda _question: "不知道")
    told = as_json(tuned, base)
    assert (told["questions"], told["right"], told["base_right"]) == (1, 1, 0)
    assert told["rows"][0]["base"]["missing"] == ["电子发票", "邮箱|邮件"]
    assert "base_right" not in as_json(tuned, None)


@pytest.mark.parametrize("text", ["", "短", "发票怎么开才能报销呢请问", "abc" * 20, "a\n b\tc"])
def test_columns_stand_under_one_another(text: str) -> None:
    """A Chinese character takes two columns of a terminal; what is too long is cut."""
    shown = pad(text, 20)
    columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in shown)
    assert columns == 20
    assert "\n" not in shown


def test_the_examples_interview_can_be_passed_by_the_examples_answers(rows: Path) -> None:
    """Each question of the example has an answer in the data set that would be judged right."""
    questions = read_questions(rows.with_name("interview.jsonl"))
    answers = [sample.answer for sample in read_dataset(rows).samples]
    assert len(questions) >= 10
    for question in questions:
        assert any(judge(question, answer).right for answer in answers), question.question
