from __future__ import annotations

import random

from hypothesis import given, strategies as st

from trainer.sample import Sample
from trainer.similar import THRESHOLD, _pieces, _similar, conflicts, near_duplicates

QUESTION = "请问你们家的净水器滤芯多久需要更换一次呢"
ANSWER = "您好，复合滤芯建议十二个月更换一次，活性炭滤芯建议六个月更换一次，具体请看提示灯"


def test_a_row_with_a_word_changed_is_found() -> None:
    """It is named with the first row like it; the exact repeat is another finding."""
    rows = [
        Sample(1, QUESTION, ANSWER),
        Sample(2, "完全不同的一个问题，关于发票", "发票在订单页面申请即可"),
        Sample(3, QUESTION, ANSWER),
        Sample(4, QUESTION + "？", ANSWER.replace("请看", "请看看")),
    ]
    assert near_duplicates(rows) == [(4, 1)]


def test_signs_and_case_do_not_hide_a_repeat() -> None:
    """Letters and digits alone are looked at."""
    rows = [
        Sample(1, "How do I return it?", "Press RETURN."),
        Sample(2, "how do i return it", "press return!!"),
    ]
    assert near_duplicates(rows) == [(2, 1)]


@given(st.integers(0, 10_000))
def test_none_is_missed(seed: int) -> None:
    """The index finds what comparing each with each would: a row like an earlier kept one."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices("甲乙丙丁戊己庚辛", k=draw.randint(1, 40))) for _ in range(4)]
    rows = []
    for line in range(1, 25):
        text = list(draw.choice(texts))
        if draw.random() < 0.7:
            text[draw.randrange(len(text))] = draw.choice("子丑寅卯")
        rows.append(Sample(line, "".join(text), "答"))
    kept: list[Sample] = []
    wanted = []
    seen = set()
    for row in rows:
        if row.texts() in seen:
            continue
        seen.add(row.texts())
        mine = _pieces(row.question + row.answer)
        like = next((k for k in kept if _similar(mine, _pieces(k.question + k.answer))), None)
        if like:
            wanted.append((row.line, like.line))
        else:
            kept.append(row)
    assert near_duplicates(rows) == wanted


def test_similarity_is_the_share_of_common_pieces() -> None:
    """At the threshold it counts, below it does not."""
    hundred = frozenset(map(str, range(100)))
    assert _similar(hundred, frozenset(map(str, range(int(100 * THRESHOLD)))))
    assert not _similar(hundred, frozenset(map(str, range(int(100 * THRESHOLD) - 1))))


def test_a_question_with_two_answers_is_found() -> None:
    """The model would learn to toss a coin; another system prompt makes another question."""
    rows = [
        Sample(1, "几点开门", "九点"),
        Sample(2, "几点开门", "十点"),
        Sample(3, "几点开门 ", "九点"),
        Sample(4, "几点开门", "八点", "你是分店"),
    ]
    assert conflicts(rows) == [(2, 1)]


def test_a_file_of_one_row_in_many_variants_is_no_trap() -> None:
    """Each variant is compared with the first alone, not with thousands of others."""
    rows = [Sample(n, QUESTION, ANSWER + str(n)) for n in range(1, 3001)]
    assert len(near_duplicates(rows)) == 2999
