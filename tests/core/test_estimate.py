from __future__ import annotations

from fractions import Fraction

import pytest

from costguard.core.estimate import (
    Bite,
    Overheads,
    Part,
    assumed_overheads,
    checkpoints_mib,
    estimate,
    model_mib,
    needed_mib,
    padded_share,
    parts_of,
    step_ms,
)
from costguard.core.forecast import NOTHING, Fit, Source, Span, Throughput, Work
from costguard.core.lease import Account
from costguard.core.moment import Moment
from costguard.core.spec import Schedule
from costguard.core.tariff import Tariff
from tests.core.tariffs import MIDNIGHT_MS

YUAN = 1_000_000
NOW = Moment(MIDNIGHT_MS, 0, "boot")
A_SECOND = Tariff(3_600 * YUAN)  # 1 yuan a second
HERE = Throughput(Fraction(100), Source.MEASURED_HERE)
WORK = Work(samples=80, tokens=8_000, samples_per_step=8, epochs=Fraction(1))  # 10 steps, 80 s
STOP = Span(0, 1_000, 4_000)


def sure(seconds: int) -> Span:
    """So long, for certain."""
    return Span(*(seconds * 1_000,) * 3)


FEW = Overheads(sure(10), sure(20), sure(5), sure(1), sure(2))


def test_the_parts_are_in_the_order_in_which_they_are_paid() -> None:
    """Set-up and download once, the rest for each stage, and the way home."""
    parts = parts_of((WORK, WORK), HERE, FEW)
    assert [(part.what, part.stage) for part in parts] == [
        *[("setup", None), ("download", None)],
        *[("load", 0), ("train", 0), ("save", 0)],
        *[("load", 1), ("train", 1), ("save", 1)],
        ("home", None),
    ]
    assert [part.steps for part in parts if part.what == "train"] == [10, 10]
    assert parts[3].time_ms.likely == 80_000


def test_what_is_on_the_instance_already_is_not_downloaded() -> None:
    """A model that travels with the job, or lies in the image."""
    few = Overheads(FEW.setup, NOTHING, FEW.load, FEW.save, FEW.home)
    assert "download" not in [part.what for part in parts_of((WORK,), HERE, few)]


def test_evaluations_are_a_part_of_their_own() -> None:
    """Five of two steps' samples: a third of training on them, likely as long, twice at most.

    What plans none, or was not asked about, has no such part.
    """
    plan = Schedule(evaluate_every=2, evaluates_after=1, held_out=16, samples_per_step=8)
    parts = parts_of((WORK,) * 3, HERE, FEW, (plan, Schedule(save_every=5), None))
    (part,) = [part for part in parts if part.what == "evaluate"]
    train_ms = next(part.time_ms for part in parts if part.what == "train")
    assert (part.stage, part.time_ms.likely) == (0, 5 * 16_000)
    assert part.time_ms.low == pytest.approx(train_ms.low / 3, rel=0.01)
    assert part.time_ms.high == pytest.approx(2 * train_ms.high, rel=0.01)
    assert [each.what for each in parts[2:6]] == ["load", "train", "evaluate", "save"]


def test_the_parts_add_up_to_the_whole() -> None:
    """To the micro, at each end of the range, the stop among them."""
    found = estimate(parts_of((WORK, WORK), HERE, FEW), A_SECOND, (), NOW, STOP, 4_000)
    assert found.parts[-1] == Part("stop", None, STOP)
    for end in ("low", "likely", "high"):
        whole = getattr(found.whole.cost_micros, end)
        assert sum(getattr(cost, end) for cost in found.costs) == whole
    assert found.whole.cost_micros.likely == 205 * YUAN
    assert (found.whole.fit, found.bite) == (Fit.FITS, None)


def test_under_a_tariff_by_the_hour_the_hour_belongs_to_where_it_begins() -> None:
    """59 minutes of training are nothing after a set-up that has begun the hour."""
    hourly = Tariff(15 * YUAN, 3_600)
    parts = (
        Part("setup", None, sure(60)),
        Part("train", 0, sure(3_500), 7),
        Part("home", None, sure(60)),
    )
    found = estimate(parts, hourly, (), NOW, STOP, 4_000)
    assert [cost.likely for cost in found.costs] == [15 * YUAN, 0, 15 * YUAN, 0]


@pytest.mark.parametrize(
    ("cap_yuan", "bite"),
    [
        (4 + 5, Bite("setup", None, None)),
        (4 + 25, Bite("download", None, None)),
        (4 + 35, Bite("train", 0, 0)),
        (4 + 75, Bite("train", 0, 5)),
        (4 + 116, Bite("load", 1, None)),
        (4 + 201, Bite("save", 1, None)),
        (4 + 203, Bite("home", None, None)),
        (1, Bite("setup", None, None)),
    ],
)
def test_where_the_cap_bites_is_told_with_the_step(cap_yuan: int, bite: Bite) -> None:
    """L is kept free for the stop, so that the cap bites that much earlier."""
    account = Account("job x", cap_yuan * YUAN, 0, 0, 0)
    parts = parts_of((WORK, WORK), HERE, FEW)
    found = estimate(parts, A_SECOND, (account,), NOW, STOP, 4_000)
    assert (found.whole.fit, found.bite) == (Fit.SHORT, bite)


def test_what_fits_only_with_luck_is_tight() -> None:
    """Likely, but not if it takes as long as it may."""
    account = Account("job x", 212 * YUAN, 0, 0, 0)
    found = estimate(parts_of((WORK, WORK), HERE, FEW), A_SECOND, (account,), NOW, STOP, 4_000)
    assert (found.whole.fit, found.bite) == (Fit.TIGHT, None)


def test_a_bite_after_every_part_is_the_last_ones() -> None:
    """Rounding alone can make it so."""
    from costguard.core.estimate import _bite

    assert _bite((Part("home", None, sure(1)),), 5_000) == Bite("home", None, None)


def test_a_step_takes_its_tokens_over_the_throughput() -> None:
    """Eight samples of a hundred tokens, a hundred a second."""
    assert step_ms(WORK, HERE) == 8_000
    assert step_ms(Work(0, 0, 8, Fraction(1)), HERE) == 0


def test_a_models_size_is_read_off_its_name() -> None:
    """Qwen2.5-7B is 15.2 GB (14.2 GiB) in bf16; in 4 bits it is worth a card of 8 GiB."""
    assert 14_190 <= model_mib(Fraction(7)) <= 15_500
    assert 8_000 <= needed_mib(Fraction(7), in_4_bits=True) <= 9_000
    assert needed_mib(Fraction(7), in_4_bits=False) > 16_000
    assert (model_mib(None), needed_mib(None, in_4_bits=True)) == (0, 0)


def test_assumed_overheads_grow_with_the_model() -> None:
    """Of a model on this disk nothing is downloaded, and loading it takes some seconds."""
    small, large = assumed_overheads(0, 60_000), assumed_overheads(15_000, 60_000)
    assert small.download == NOTHING
    assert small.load.low < small.load.likely < small.load.high
    assert large.download == Span(75_000, 300_000, 1_500_000)
    assert large.load.likely == 60_000
    assert large.save == Span(0, 5_000, 60_000)


def test_padding_is_what_batches_of_unequal_samples_cost() -> None:
    """Of 100 and 300 tokens in pairs three of four have a long one: 250 for a mean of 200."""
    assert padded_share(((100, 5), (300, 5)), 2) == Fraction(250, 200)
    assert padded_share(((100, 5), (300, 5)), 1) == 1
    assert padded_share(((100, 10),), 8) == 1
    assert padded_share((), 8) == 1


def test_checkpoints_are_as_large_as_their_lora() -> None:
    """Rank 8 at 7B: 20 million weights with their moments, the last three and the next one."""
    true_mib = 8 * 28 * 90_112 * 12 * 4 / 2**20
    assert true_mib < checkpoints_mib(Fraction(7), 8, 3) < 1.3 * true_mib
    assert checkpoints_mib(None, 8, 3) == 0
