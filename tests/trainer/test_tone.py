from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.data import read_dataset
from trainer.sample import Sample
from trainer.tone import judge_tone

if TYPE_CHECKING:
    from pathlib import Path


def answers(*texts: str) -> list[Sample]:
    return [Sample(line, "问你", text) for line, text in enumerate(texts, start=1)]


def test_two_ways_to_address_the_customer_are_mixed() -> None:
    """The rarer one is named with its lines; questions do not count, they are the customer's."""
    found = judge_tone(answers("您好", "您稍等", "你等一下", "亲，您好"))
    assert found["markers"]["您"] == 3
    assert found["mixed"] == [
        {"what": "你 where most answers say 您", "count": 1, "lines": [3]},
        {"what": "亲 where most answers say 您", "count": 1, "lines": [4]},
    ]


def test_chatty_answers_among_plain_ones_are_mixed() -> None:
    """A few particles or emoji are a slip; in most answers they are the style."""
    found = judge_tone(answers("您好。", "好的呢！", "已发货。", "请查收😊"))
    assert [(m["what"], m["lines"]) for m in found["mixed"]] == [
        ("particles where most answers have none", [2]),
        ("emoji where most answers have none", [4]),
    ]
    assert judge_tone(answers("好呢。", "在哦，", "来啦"))["mixed"] == []


def test_the_example_speaks_in_one_tone(rows: Path) -> None:
    """No false alarm on the data that ship with the trainer."""
    assert judge_tone(read_dataset(rows).samples)["mixed"] == []


def test_words_that_only_hold_a_marker_are_none() -> None:
    """亲 in 亲自 and 母亲 addresses nobody."""
    assert judge_tone(answers("您可以亲自来", "您母亲的订单"))["markers"]["亲"] == 0
