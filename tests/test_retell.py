from __future__ import annotations

import re

import pytest

from costguard import lang
from costguard.retell import LENGTH_MAX, retell, retell_line, sentences
from tests.catalogues import said
from tests.daemon_texts import evidence_names, sentences as said_by_the_daemon

BLANKS = re.compile(r"\{\d*(?::word)?\}")


def test_every_sentence_of_the_daemon_has_its_chinese() -> None:
    """`make locale` adds it to daemon.po, with {} for each blank."""
    missing = {text: at for text, at in said_by_the_daemon().items() if text not in sentences()}
    assert missing == {}


def test_every_name_of_evidence_has_its_chinese() -> None:
    """As it is shown: without the unit."""
    assert evidence_names() - sentences().keys() == set()


def test_no_chinese_is_left_of_what_is_no_longer_said() -> None:
    """A sentence that was reworded takes its translation along."""
    still = said()
    assert sentences().keys() - still["daemon"].keys() - still["trainer"].keys() == set()


def test_translations_keep_every_blank() -> None:
    """A figure that is lost would be a lie, one that is there twice a riddle."""
    for english, chinese in sentences().items():
        blanks = [found.group() for found in BLANKS.finditer(chinese)]
        assert len(blanks) == english.count("{}"), english
        numbers = [int(n) for n in re.findall(r"\{(\d+)", chinese)]
        assert numbers == [] or sorted(numbers) == list(range(1, len(blanks) + 1)), english
        assert not re.search(r"\{\w+\}", english), english


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("training was started", "训练已启动"),
        ("no new step for 130 s", "130 秒没有新的一步"),
        ("phase download is silent for 601 s", "环节“下载”已 601 秒没有动静"),
        ("submitted with a cap of 80.00 yuan", "已提交，预算 80.00 元"),
        ("the bill is 0.30 yuan above the books", "账单比账本多 0.30 元"),
        (
            "the cap of job kefu went from 60.00 to 80.00 yuan",
            "任务 kefu 的预算从 60.00 元改为 80.00 元",
        ),
        ("the cap of month 2026-11 went to 500.00 yuan", "月份 2026-11 的预算改为 500.00 元"),
        (
            "the instance was found switched off after its lease ran out unrenewed",
            "发现实例已关机，此前运行额度到期没有续上",
        ),
        (
            "forecast: about 9.10 yuan to finish (7.00 to 22.00; speed your own runs)",
            "预测：跑完约需 9.10 元（7.00 到 22.00；速度来源：你自己的运行）",
        ),
        (
            "WILL NOT FIT: x; the budget ends near step 12 of stage 1",
            "预算不够：x；大约在第 1 轮次第 12 步用完",
        ),
        (
            "read the end of the log: `costguard logs training`",
            "看日志的结尾：`costguard logs training`",
        ),
        ("no price yet: 余额不足 (Code 8)", "还没有价格：余额不足 (Code 8)"),
        (
            "no price yet: autodl create: 429, too many calls",
            "还没有价格：autodl create：429，调用太频繁",
        ),
        (
            "nothing rented: autodl: the account is in arrears: top it up (200 NoMoney 余额不足)",
            "没有租到：autodl：账号欠费，请充值 (200 NoMoney 余额不足)",
        ),
        (
            "the instance is not fit for the job: driver: no NVIDIA driver; python: none that runs",
            "实例不适合这个任务：driver：没有 NVIDIA 驱动；python：没有能运行的",
        ),
        (
            "network to x.cn: not tried (take a larger data disk, or free this one)",
            "网络，到 x.cn：没有试（请换更大的数据盘，或清理这一块）",
        ),
        (
            "no lease came in time; no in-guest stop is set: the machine stays on",
            "没有及时收到运行额度；没有设置机内关机：机器会一直开着",
        ),
        (
            "training ended: exit code 0; 3 steps are lost since the start",
            "训练结束：退出码 0；丢失 3 步（从头算起）",
        ),
        ("docker: pull access denied; log in (x)", "docker: pull access denied; log in (x)"),
        ("what a platform says in its own words", "what a platform says in its own words"),
        ("put it into a file of its own, mode 0600", "put it into a file of its own, mode 0600"),
        ("", ""),
    ],
)
def test_a_sentence_is_said_again_with_what_stood_in_its_blanks(english: str, chinese: str) -> None:
    """Parts of it too; names and a platform's own words stay as they are."""
    assert retell(english, "zh") == chinese
    assert retell(english, "en") == english


def test_the_language_is_the_one_selected_unless_one_is_named() -> None:
    """A notice goes out in its channel's."""
    lang.select("zh")
    assert retell("training was started") == "训练已启动"
    assert retell("training was started", "en") == "training was started"
    lang.select("en")
    assert retell("training was started") == "training was started"


def test_the_trainers_own_sentences_are_retold() -> None:
    """Of its log and its documents, by the catalogue that travels with it."""
    said = "step 3/84  held-out loss 1.2345"
    assert retell(said, "zh") == "第 3/84 步  留出样本的损失 1.2345"
    plan = (
        "plan (measured by plan): passes of up to 9 tokens, layers compiled; packs of 3, 4 tokens"
    )
    assert retell(plan, "zh") == (
        "方案（由 plan 实测）：每次前向最多 9 个 token，编译各层；每包 3, 4 个 token"
    )
    lang.select("zh")
    assert retell_line(plan) == retell(plan)
    lang.select("en")
    assert retell("passes captured, mine", "zh") == "passes captured, mine"


def test_a_line_of_a_log_is_not_taken_apart() -> None:
    """A sentence of ours is told; what is somebody else's stays, whatever is in it."""
    foreign = "worker: no lease came in time"
    lang.select("zh")
    assert retell_line("step 3/84  loss 1.2  lr 1e-4  left ?") == (
        "第 3/84 步  损失 1.2  学习率 1e-4  还需 ?"
    )
    assert retell_line(foreign) == foreign
    assert retell(foreign) != foreign
    assert retell_line("x" * (LENGTH_MAX + 1)) == "x" * (LENGTH_MAX + 1)
    lang.select("en")
    assert retell_line("training was started") == "training was started"


def test_a_log_is_not_looked_through() -> None:
    """What is that long is no sentence; several lines in a blank are kept whole."""
    long = "no price yet: " + "x" * LENGTH_MAX
    assert retell(long, "zh") == long
    assert retell("no price yet: a\nb", "zh") == "还没有价格：a\nb"
