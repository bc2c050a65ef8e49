"""Foretell: what a job will take and cost on one offer, before anything is rented.

Work (samples, tokens, steps) comes from whoever has read the data set; speed and overheads from
this home's own runs where there were any, else from tables whose sources are named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from costguard.core.estimate import (
    Estimate,
    assumed_overheads,
    estimate,
    model_mib,
    parts_of,
)
from costguard.core.forecast import Fit, Source, Span, Throughput, Work
from costguard.core.money import yuan_text
from costguard.core.spec import model_of
from costguard.providers.speeds import OWN_RUNS, Speed, speed_of
from costguard.report.observed import LOCAL, Observed, observed

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.lease import Account
    from costguard.core.moment import Moment
    from costguard.core.spec import JobSpec
    from costguard.core.tariff import Tariff

MS_PER_S = 1_000
MODEL_IN_JOB = "model"  # a model that travels with the job: nothing is downloaded
_BILLIONS = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Foretold:
    """The estimate on one offer, with the speed that it rests on and what of it was measured."""

    estimate: Estimate
    speed: Speed
    source: Source
    throughput: Throughput
    measured: tuple[str, ...]  # the parts that this home's own runs have shown


def works_to_json(works: tuple[Work, ...]) -> list[dict[str, Any]]:
    """The work as the command socket carries it."""
    return [
        {
            "samples": work.samples,
            "tokens": work.tokens,
            "samples_per_step": work.samples_per_step,
            "epochs": str(work.epochs),
        }
        for work in works
    ]


def works_from_json(rows: Any) -> tuple[Work, ...]:
    """The work of a request; () where there is none, or none that is understood."""
    try:
        return tuple(
            Work(
                int(row["samples"]),
                int(row["tokens"]),
                max(int(row["samples_per_step"]), 1),
                Fraction(str(row["epochs"])),
            )
            for row in rows or ()
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return ()


def billions_of(model: str | None) -> Fraction | None:
    """The parameters that a model's name bears, such as 7 of `Qwen2.5-7B-Instruct`."""
    found = _BILLIONS.search((model or "").replace("-", " ").replace("_", " ").replace("/", " "))
    return Fraction(found[1]) if found else None


def seen_before(session: Session | None, spec: JobSpec, provider: str) -> Observed:
    """What earlier runs of the job's model have shown, in this home."""
    model = model_of(spec.to_json())
    if session is None or model is None:
        return Observed()
    return observed(session, model, provider)


def foretell(
    spec: JobSpec,
    works: tuple[Work, ...],
    provider: str,
    gpus: tuple[str, ...],
    gpu_count: int,
    tariff: Tariff,
    scopes: tuple[Account, ...],
    now: Moment,
    stop_ms: int,
    latency_ms: int,
    seen: Observed,
) -> Foretold | None:
    """The estimate on such a card; None where nothing is known of its speed, or no work.

    `gpus` are names to try: an offer's own and what its note says. `stop_ms` is the platform's
    worst from the stop call to the meter's end.
    """
    speed = _speed(provider, gpus, seen)
    if speed is None or not works:
        return None
    source = _source(speed)
    throughput = Throughput(Fraction(speed.tokens_per_s * max(gpu_count, 1)), source)
    model = model_of(spec.to_json())
    mib = 0 if model == MODEL_IN_JOB else model_mib(billions_of(model))
    grace_ms = max(run.save_grace_ms for run in spec.runs)
    overheads = assumed_overheads(mib, grace_ms)
    known = {part: _span(times) for part, times in seen.seconds.items()}
    overheads = replace(overheads, **known)
    schedules = tuple(run.schedule for run in spec.runs)
    parts = parts_of(works, throughput, overheads, schedules)
    stopping = Span(0, stop_ms // 4, stop_ms)
    found = estimate(parts, tariff, scopes, now, stopping, latency_ms)
    return Foretold(found, speed, source, throughput, tuple(sorted(known)))


def warnings(found: Foretold | None) -> list[str]:
    """What a plan says of the forecast: the likely cost, and loudly where it will not fit."""
    if found is None:
        return []
    cost, whole = found.estimate.whole.cost_micros, found.estimate.whole
    low, likely, high = (yuan_text(each) for each in (cost.low, cost.likely, cost.high))
    said = f"about {likely} yuan to finish ({low} to {high}; speed {found.speed.source})"
    if whole.fit is Fit.FITS:
        return [f"forecast: {said}"]
    if whole.fit is Fit.TIGHT:
        return [f"MAY NOT FIT: {said}; the budget reaches if all goes as is likely"]
    bite = found.estimate.bite
    assert bite is not None, "what is too short ends somewhere"
    if bite.step is None:
        return [f"WILL NOT FIT: {said}; the budget ends in the {bite.what} part"]
    where = f"step {bite.step} of stage {(bite.stage or 0) + 1}"
    return [f"WILL NOT FIT: {said}; the budget ends near {where}"]


def _speed(provider: str, gpus: tuple[str, ...], seen: Observed) -> Speed | None:
    """Our own measurement before any table; of the platform on this machine, nothing else."""
    for gpu in gpus:
        speed = speed_of(gpu, seen.tokens_per_s) if gpu else None
        if speed is not None and (provider != LOCAL or speed.source == OWN_RUNS):
            return speed
    return None


def _source(speed: Speed) -> Source:
    if speed.source == OWN_RUNS:
        return Source.MEASURED_HERE
    return Source.CALCULATED if speed.kind == "calculated" else Source.MEASURED_ELSEWHERE


def _span(times_s: list[int]) -> Span:
    """Half the shortest, the middle and twice the longest of what was seen."""
    middle = sorted(times_s)[len(times_s) // 2]
    return Span(min(times_s) * MS_PER_S // 2, middle * MS_PER_S, max(times_s) * MS_PER_S * 2)
