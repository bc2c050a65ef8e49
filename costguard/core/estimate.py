"""What a job will take and cost before anything is rented, part by part, and where a cap bites.

A job is a row of parts: set-up, download, and for each stage loading, training and saving, then
the way home. Training comes from the data's tokens and a card's throughput, the rest from what
was seen before or, where nothing was, from figures that are named as assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from costguard.core.forecast import (
    NOTHING,
    Course,
    Fit,
    Forecast,
    Span,
    Throughput,
    Work,
    beside_time,
    forecast,
    training_time,
)
from costguard.core.schedule import NONE_SEEN, beside
from costguard.core.tariff import running_micros

if TYPE_CHECKING:
    from costguard.core.lease import Account
    from costguard.core.moment import Moment
    from costguard.core.spec import Schedule
    from costguard.core.tariff import Tariff

MIB = 2**20
MS_PER_S = 1_000
# Nobody has measured these here: a range that holds what platforms and their networks were said
# to take (reference of the platforms' documents), wide on purpose.
SETUP_MS = Span(30_000, 90_000, 300_000)  # the start call, SSH, uploads, the first look
HOME_MS = Span(1_000, 10_000, 120_000)  # what is not home yet when training ends
SAVE_LIKELY_MS = 5_000
DOWNLOAD_MIB_PER_S = (200, 50, 10)
LOAD_MIB_PER_S = (1_000, 250, 60)  # read and quantised
LEAST_LOAD_MS = 5_000
MIB_PER_BILLION = 2_100  # two bytes a parameter, and the tenth by which names are rounded down
BITS_4_MIB_PER_BILLION, BITS_16_MIB_PER_BILLION = 770, 2_150
# Weights of LoRA on all linear layers for each rank, a little above Qwen2.5's: 0.55 million at
# 0.5B, 2.52 at 7B (28 layers of 90,112), 13.2 at 72B.
LORA_PER_RANK, LORA_PER_RANK_AND_BILLION = 400_000, 360_000
CHECKPOINT_BYTES_PER_WEIGHT = 12  # fp32, with both of Adam's moments
WORKING_MIB = 3_072  # activations of short samples, LoRA weights and their optimizer


@dataclass(frozen=True, slots=True)
class Overheads:
    """What is paid beside the steps, in milliseconds."""

    setup: Span
    download: Span
    load: Span  # before each stage
    save: Span  # after each stage
    home: Span


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of the job: `what` as the report calls its phase, and the stage it is of."""

    what: str
    stage: int | None
    time_ms: Span
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Bite:
    """Where the cap will likely end the run: in this part, if it trains after so many steps."""

    what: str
    stage: int | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The parts, what each costs (micro-yuan), the whole, and where the cap bites if it does."""

    parts: tuple[Part, ...]
    costs: tuple[Span, ...]
    whole: Forecast
    bite: Bite | None


def model_mib(billions: Fraction | None) -> int:
    """Of how many MiB a model's weights are, by the size in its name; 0 where it bears none."""
    return 0 if billions is None else round(billions * MIB_PER_BILLION)


def checkpoints_mib(billions: Fraction | None, lora_rank: int, kept: int) -> int:
    """Of how many MiB a LoRA run's checkpoints are at most; 0 where the model's size is unknown.

    One more than is kept: the next is whole before the oldest goes.
    """
    if billions is None:
        return 0
    weights = lora_rank * (LORA_PER_RANK + billions * LORA_PER_RANK_AND_BILLION)
    return round(weights * CHECKPOINT_BYTES_PER_WEIGHT * (kept + 1) / MIB)


def needed_mib(billions: Fraction | None, *, in_4_bits: bool) -> int:
    """The least card memory that is worth renting for it; 0 where the model's size is unknown."""
    if billions is None:
        return 0
    return round(billions * (BITS_4_MIB_PER_BILLION if in_4_bits else BITS_16_MIB_PER_BILLION)) + (
        WORKING_MIB
    )


def assumed_overheads(mib: int, save_grace_ms: int) -> Overheads:
    """The overheads of a model of that size where none was ever seen."""
    low, likely, high = (mib * MS_PER_S // rate for rate in LOAD_MIB_PER_S)
    fast, usual, slow = (mib * MS_PER_S // rate for rate in DOWNLOAD_MIB_PER_S)
    return Overheads(
        setup=SETUP_MS,
        download=Span(fast, usual, slow),
        load=Span(max(low, 1_000), max(likely, LEAST_LOAD_MS), max(high, 4 * LEAST_LOAD_MS)),
        save=Span(0, min(SAVE_LIKELY_MS, save_grace_ms), save_grace_ms),
        home=HOME_MS,
    )


def parts_of(
    works: tuple[Work, ...],
    throughput: Throughput,
    overheads: Overheads,
    schedules: tuple[Schedule | None, ...] = (),
) -> tuple[Part, ...]:
    """The whole job in the order in which it is paid for; `schedules` are the stages'.

    A stage's evaluations are one part, after the steps that they lie between.
    """
    found = [Part("setup", None, overheads.setup)]
    if overheads.download != NOTHING:
        found.append(Part("download", None, overheads.download))
    for stage, work in enumerate(works):
        train_ms = training_time((work,), throughput)
        found += [
            Part("load", stage, overheads.load),
            Part("train", stage, train_ms, work.steps),
        ]
        judge_ms = _judging(schedules[stage] if stage < len(schedules) else None, work, train_ms)
        if judge_ms != NOTHING:
            found.append(Part("evaluate", stage, judge_ms))
        found.append(Part("save", stage, overheads.save))
    return (*found, Part("home", None, overheads.home))


def _judging(schedule: Schedule | None, work: Work, train_ms: Span) -> Span:
    """All evaluations of a stage; nothing where it is not known when they come."""
    if schedule is None:
        return NOTHING
    a_step = (each // max(work.steps, 1) for each in (train_ms.low, train_ms.likely, train_ms.high))
    return beside_time(beside(schedule, NONE_SEEN, 0, work.steps), Span(*a_step), NOTHING)


def step_ms(work: Work, throughput: Throughput) -> int:
    """How long one optimizer step likely takes."""
    tokens = Fraction(work.tokens * work.samples_per_step, max(work.samples, 1))
    return round(tokens * MS_PER_S / throughput.tokens_per_s)


def padded_share(histogram: tuple[tuple[int, int], ...], batch: int) -> Fraction:
    """Tokens in batches that are padded to their longest sample, over the tokens themselves.

    1 where nothing would be padded. `histogram` is (tokens, samples) by rising length; of a batch
    drawn from it the longest is expected at the sum of each length times the chance that it is it.
    """
    samples = sum(count for _tokens, count in histogram)
    whole = sum(tokens * count for tokens, count in histogram)
    if not whole:
        return Fraction(1)
    longest, below = Fraction(0), 0
    for tokens, count in histogram:
        upto = below + count
        longest += tokens * (Fraction(upto, samples) ** batch - Fraction(below, samples) ** batch)
        below = upto
    return longest * samples / whole


def estimate(
    parts: tuple[Part, ...],
    tariff: Tariff,
    accounts: tuple[Account, ...],
    now: Moment,
    stop_ms: Span,
    latency_ms: int,
) -> Estimate:
    """Each part's price by the tariff, from now on, and whether the caps reach to the end.

    The stop itself is the last part. A part costs what the meter goes on by while it lasts, so
    that they add up to the whole: under a tariff by the hour the hour belongs to the part in which
    it begins.
    """
    every = (*parts, Part("stop", None, stop_ms))
    ends = [*accumulate((part.time_ms for part in every), Span.plus, initial=NOTHING)]
    priced = [
        Span(
            *(
                running_micros(tariff, now.utc_ms, now.utc_ms + lasted_ms)
                for lasted_ms in (end.low, end.likely, end.high)
            )
        )
        for end in ends
    ]
    costs = tuple(
        Span(after.low - before.low, after.likely - before.likely, after.high - before.high)
        for before, after in pairwise(priced)
    )
    course = Course(before=NOTHING, steps=ends[-2], after=NOTHING)
    whole = forecast(course, tariff, None, None, accounts, now, stop_ms, latency_ms)
    bite = _bite(parts, whole.runway_ms or 0) if whole.fit is Fit.SHORT else None
    return Estimate(every, costs, whole, bite)


def _bite(parts: tuple[Part, ...], reaches_ms: int) -> Bite:
    """The part in which the cap bites: the whole lasts longer than that, so there is one."""
    left_ms = max(reaches_ms, 0)
    for part in parts:
        if left_ms < part.time_ms.likely:
            step = left_ms * part.steps // part.time_ms.likely if part.steps else None
            return Bite(part.what, part.stage, step)
        left_ms -= part.time_ms.likely
    return Bite(parts[-1].what, parts[-1].stage, None)
