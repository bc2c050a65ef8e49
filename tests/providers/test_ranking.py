from __future__ import annotations

from decimal import Decimal

import pytest

from costguard.core.tariff import Tariff
from costguard.providers.base import Offer
from costguard.providers.clocks import hours_left, warning_days
from costguard.providers.imagewords import says_qwen25
from costguard.providers.ranking import rank
from costguard.providers.shared import card
from costguard.providers.speeds import SPEEDS, calculated, speed_of

DAY_MS = 86_400_000
TOKENS = 10_000_000


def offer(
    gpu: str,
    yuan: int,
    *,
    count: int = 1,
    quantum_s: int = 1,
    stock: bool | None = True,
    memory: int | None = None,
    note: str = "",
) -> Offer:
    """Something to rent."""
    tariff = Tariff(
        price_micros_per_hour=yuan * 1_000_000,
        quantum_s=quantum_s,
        paused_micros_per_hour=10_000,
    )
    return Offer(gpu, count, tariff, stock, memory, note=note)


def test_the_dearer_hour_may_be_the_cheaper_job() -> None:
    """The article's three cards at its prices: by calculated speed the A100 finishes cheapest."""
    offers = [
        ("a", offer("RTX 3090", 15)),
        ("a", offer("A10", 20)),
        ("a", offer("A100", 40)),
    ]
    ranked = rank(offers, TOKENS)
    assert [one.offer.gpu for one in ranked] == ["A100", "A10", "RTX 3090"]
    assert ranked[2].duration_ms == 9_699_322  # 10,000,000 / 1,031 s
    assert ranked[2].finish_micros == 40_416_667  # 9,700 s begun, at 15 yuan an hour
    assert ranked[0].paused_micros_per_day == 240_000


def test_own_measurements_take_the_tables_place() -> None:
    """And turn the order."""
    offers = [("a", offer("RTX 3090", 15)), ("a", offer("A100", 40))]
    ranked = rank(offers, TOKENS, own={"NVIDIA GeForce RTX 3090": 3_000})
    assert ranked[0].offer.gpu == "RTX 3090"
    assert ranked[0].speed is not None
    assert ranked[0].speed.kind == "measured"


def test_an_hour_begun_counts_whole_where_the_tariff_says_so() -> None:
    """A short job is cheap by the second alone."""
    offers = [("hour", offer("H200", 20, quantum_s=3_600)), ("second", offer("H200", 25))]
    ranked = rank(offers, 1_000_000)
    assert [one.platform for one in ranked] == ["second", "hour"]
    assert ranked[1].finish_micros == 20_000_000


def test_what_is_sold_out_comes_after_and_what_is_unknown_last() -> None:
    """However cheap it is."""
    offers = [
        ("a", offer("RTX 9999", 1)),
        ("a", offer("RTX 3090", 2, stock=False)),
        ("a", offer("RTX 3090", 50, stock=None)),
    ]
    assert [one.offer.tariff.price_micros_per_hour for one in rank(offers, TOKENS)] == [
        50_000_000,
        2_000_000,
        1_000_000,
    ]
    assert rank(offers, TOKENS)[2].finish_micros is None


def test_cards_too_small_are_left_out() -> None:
    """Those that do not say how large they are, are not."""
    offers = [("a", offer("RTX 3090", 1, memory=12)), ("b", offer("RTX 3090", 2))]
    assert [one.platform for one in rank(offers, TOKENS, memory_gib=16)] == ["b"]


def test_several_cards_are_so_many_times_faster_and_no_cheaper() -> None:
    """The best case; setup is paid on all of them."""
    one, two = offer("RTX 3090", 15), offer("RTX 3090", 30, count=2)
    ranked = rank([("a", two), ("a", one)], TOKENS, setup_ms=600_000)
    assert [r.offer.gpu_count for r in ranked] == [1, 2]
    assert (ranked[1].duration_ms or 0) < (ranked[0].duration_ms or 0)


def test_a_machine_is_known_by_the_card_in_its_note() -> None:
    """AWS names machines, not cards."""
    (ranked,) = rank([("aws", offer("g5.xlarge", 8, note="A10G"))], TOKENS)
    assert ranked.speed == calculated(70)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX_3090", "RTX 3090"),
        ("4090_48G", "RTX 4090"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("H200", "H200"),
        ("A1000", None),
        ("RTX 2080 Ti", None),
        ("B200", None),
    ],
)
def test_cards_are_known_by_whatever_name(name: str, known: str | None) -> None:
    """And none is taken for another whose name begins alike."""
    found = speed_of(name)
    assert found == (None if known is None else SPEEDS[card(known)])


def test_every_figure_says_how_it_is_known() -> None:
    """Calculated ones by the formula of the page: 60 % of peak over 41.3 GFLOP a token."""
    assert speed_of("RTX 3090") == calculated(71)
    assert calculated(71).tokens_per_s == 1_031
    for speed in SPEEDS.values():
        assert speed.kind in ("measured", "published", "calculated")
        assert len(speed.source) > 10


@pytest.mark.parametrize(
    ("balance", "price", "hours"),
    [
        (48_000_000, 15_000_000, "3.2"),
        (49_490_000, 15_000_000, "3.2"),
        (-5, 15_000_000, "0.0"),
        (1, 0, None),
    ],
)
def test_a_wallet_is_told_in_hours_rounded_down(
    balance: int, price: int, hours: str | None
) -> None:
    """Before the platform pulls the plug."""
    assert hours_left(balance, price) == (None if hours is None else Decimal(hours))


def test_each_warning_of_a_release_comes_once() -> None:
    """7, 3 and 1 days before, and once when it is too late; a night missed skips none but past."""
    end_ms = 30 * DAY_MS
    warned: int | None = None
    given = []
    for hours in range(14 * 24, -48, -1):
        due = warning_days(end_ms, end_ms - hours * DAY_MS // 24, warned)
        if due is not None:
            warned = due
            given.append((hours, due))
    assert given == [(168, 7), (72, 3), (24, 1), (0, 0)]
    assert warning_days(end_ms, end_ms - 2 * DAY_MS, None) == 3
    assert warning_days(None, 0, None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PyTorch 2.3, transformers 4.46.1", True),
        ("transformers==4.37", True),
        ("transformers 4.36, qwen2.5 ready", False),
        ("LLaMA-Factory 0.9.1", True),
        ("LLaMA-Factory v0.8", False),
        ("Qwen2.5 7B Instruct", True),
        ("PyTorch 2.0 CUDA 11.8", None),
        ("Qwen2 chat", None),
    ],
)
def test_what_an_image_says_of_qwen25(text: str, expected: bool | None) -> None:
    """Too old a version counts for more than a name."""
    assert says_qwen25(text) is expected
