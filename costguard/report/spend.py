"""`report`: spend to date. Every figure is a sum over the ledger or a stored reading of a bill."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import func, literal, select

from costguard.core.calendar import day_of
from costguard.core.money import yuan_text
from costguard.errors import EXIT_USAGE, UserError
from costguard.report.amounts import billed_s, spent_micros
from costguard.report.figures import hours_text, time_text
from costguard.report.off_hours import PHASE as PAUSED, off_hours
from costguard.store.ledger import pending_micros, posted_by_instance, posted_micros
from costguard.store.models import (
    Instance,
    Job,
    LedgerEntry,
    LedgerSum,
    PowerInterval,
    Telemetry,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

    from costguard.report.off_hours import OffHours

REPORT_SCHEMA = "costguard.report/1"
GROUPS = ("job", "stage", "phase", "provider", "instance", "gpu", "day")
ALSO_CALLED = {"platform": "provider"}
IDLE_REASONS = ("idle", "stalled", "blind")
# What is paid before the first step: needed, and it teaches the model nothing.
SETUP_PHASES = frozenset({"setup", "start", "install", "download", "load", "tokenise", "compile"})
# The article's other way (4.2): an A100 by the month, a week of which costs a quarter of it.
MONTHLY_GPU, MONTH_MICROS, WEEK_MICROS = "A100", 12_000_000_000, 3_000_000_000
WEEK_MS = 7 * 86_400_000
TIMES_MAX = 100  # a lease of so many times what was spent: a factor says nothing, hours do
SLOT_MS = 900_000  # of the ledger's sums; every time zone's midnight is at the edge of one


@dataclass
class Row:
    """One line of the report while it is being added up."""

    job: str | None
    stage: int | None
    phase: str | None
    provider: str | None
    instance: str | None
    gpu: str | None
    day: str | None
    price_micros: int
    billed_s: int = 0  # of what is free, the time itself
    amount_micros: int = 0


@dataclass
class Sums:
    """The totals while they are being added up."""

    posted: int = 0
    overrun: int = 0
    idle: int = 0
    setup: int = 0
    disk: int = 0
    running_s: int = 0
    rows: dict[tuple[object, ...], Row] = field(default_factory=dict)


def report_document(
    session: Session, now_ms: int, zone: ZoneInfo, by: str | None = None
) -> dict[str, Any]:
    """The spend-to-date report over every job of this home, rows grouped by `by` if given."""
    by = ALSO_CALLED.get(by or "", by)
    if by is not None and by not in GROUPS:
        what, names = f"a report cannot be grouped by {by!r}", (*GROUPS, *ALSO_CALLED)
        raise UserError(
            "unknown_group", what, "--by", f"give one of: {', '.join(names)}", EXIT_USAGE
        )
    jobs = {job.id: job for job in session.scalars(select(Job))}
    sums = _add_up(session, jobs, zone, by)
    instances = session.scalars(select(Instance)).all()
    confirmed = sum(row.bill_micros or 0 for row in instances)
    caps = sum(job.cap_micros for job in jobs.values())
    holds = sum(job.hold_micros for job in jobs.values())
    posted, pending = posted_micros(session), pending_micros(session)
    by_instance = posted_by_instance(session)
    spent = spent_micros(instances, by_instance)
    totals = {
        "billed_hours": hours_text(sums.running_s),
        "spent_yuan": yuan_text(spent),
        "reserved_yuan": yuan_text(pending),
        "cap_yuan": yuan_text(caps),
        "left_yuan": yuan_text(caps - spent - pending - holds),
        "worst_case_yuan": yuan_text(spent + pending + holds),
        "idle_yuan": yuan_text(sums.idle),
        "estimated_yuan": yuan_text(posted),
        "confirmed_yuan": yuan_text(confirmed),
        "drift_yuan": yuan_text(_drift_micros(instances, by_instance)),
        "overrun_yuan": yuan_text(sums.overrun),
        "setup_yuan": yuan_text(sums.setup),
        "disk_yuan": yuan_text(sums.disk),
        "idle_percent": _share_text(sums.idle, posted),
        "setup_percent": _share_text(sums.setup, posted),
    }
    return {
        "schema": REPORT_SCHEMA,
        "as_of": time_text(now_ms),
        "currency": "CNY",
        "totals": totals,
        "by_the_month": _by_the_month(session, spent, posted - sums.disk, sums.running_s),
        "rows": [_row_json(row, by) for row in sums.rows.values()],
    }


def _add_up(session: Session, jobs: dict[int, Job], zone: ZoneInfo, by: str | None) -> Sums:
    sums = Sums(idle=idle_micros(session, jobs.values()))
    # A stretch that is free belongs to no day's bill, and may go over many.
    off = {} if by == "day" else {each.after_interval: each for each in off_hours(session)}
    last: int | None = None
    for row, interval, kind, setup, overrun in _charges(session, jobs, zone, by):
        if interval != last and last in off:
            _add(sums, _free_row(off.pop(last), jobs), by)
        last = interval if kind == "running" else last
        _add(sums, row, by)
        if kind == "running":
            sums.running_s += row.billed_s
            sums.overrun += overrun
            sums.setup += setup
        else:
            sums.disk += row.amount_micros
    return sums


def _charges(
    session: Session, jobs: dict[int, Job], zone: ZoneInfo, by: str | None
) -> Iterator[tuple[Row, int, str, int, int]]:
    """Each sum of the ledger as a row, in the order in which they were first booked.

    With it come its interval, its kind, and in micro-yuan what was set-up and what was overrun.
    """
    slot = LedgerSum.slot if by == "day" else literal(0)
    group = (LedgerSum.job_id, LedgerSum.interval_id, LedgerSum.stage, LedgerSum.phase, slot)
    query = (
        select(
            LedgerSum.job_id,
            LedgerSum.interval_id,
            LedgerSum.stage,
            LedgerSum.phase,
            slot,
            Instance.provider,
            Instance.provider_id,
            Instance.gpu,
            PowerInterval.price_micros_per_hour,
            PowerInterval.kind,
            func.sum(LedgerSum.amount_micros),
            func.sum(LedgerSum.covered_micros),
            func.sum(LedgerSum.amount_micros).filter(LedgerSum.kind == "charge"),
        )
        .join(PowerInterval, LedgerSum.interval_id == PowerInterval.id)
        .join(Instance, PowerInterval.instance_id == Instance.id)
        .where(LedgerSum.kind.in_(("charge", "adjust")))
        .group_by(*group)
        .order_by(func.min(LedgerSum.first_id))
    )
    for (
        job_id,
        interval,
        stage,
        phase,
        at,
        *where,
        kind,
        amount,
        covered,
        charged,
    ) in session.execute(query):
        provider, instance, gpu, price = where
        row = Row(
            job=jobs[job_id].name,
            stage=None if stage < 0 else stage,
            phase=phase or None,
            provider=provider,
            instance=instance,
            gpu=gpu,
            day=day_of(at * SLOT_MS, zone),
            price_micros=price,
            billed_s=billed_s(amount, price),
            amount_micros=amount,
        )
        yield row, interval, kind, amount * (phase in SETUP_PHASES), (charged or 0) - covered


def _free_row(off: OffHours, jobs: dict[int, Job]) -> Row:
    return Row(
        job=jobs[off.job_id].name,
        stage=off.stage,
        phase=PAUSED,
        provider=off.provider,
        instance=off.instance,
        gpu=off.gpu,
        day=None,
        price_micros=0,
        billed_s=off.off_s,
    )


def _add(sums: Sums, row: Row, by: str | None) -> None:
    """Into the row that it shares, or as a new one."""
    kept = sums.rows.setdefault(_key(row, by), row)
    if kept is not row:
        kept.billed_s += row.billed_s
        kept.amount_micros += row.amount_micros


def idle_micros(session: Session, jobs: Iterable[Job]) -> int:
    """What was paid for running after the last step of jobs that were stopped for doing nothing."""
    idle = 0
    for job in jobs:
        last_ms = _last_step_ms(session, job) if job.pause_reason in IDLE_REASONS else None
        if last_ms is None:
            continue
        query = (
            select(func.coalesce(func.sum(LedgerEntry.amount_micros), 0))
            .join(PowerInterval, LedgerEntry.interval_id == PowerInterval.id)
            .where(
                LedgerEntry.job_id == job.id,
                LedgerEntry.to_ms > last_ms,
                LedgerEntry.kind == "charge",
                PowerInterval.kind == "running",
            )
        )
        idle += session.scalar(query) or 0
    return idle


def _last_step_ms(session: Session, job: Job) -> int | None:
    """When the job's last step was logged (UTC ms): what was paid after it taught nothing."""
    steps = select(Telemetry.at_ms).where(
        Telemetry.job_id == job.id, Telemetry.stage == job.stage, Telemetry.kind == "progress"
    )
    return session.scalars(steps.order_by(Telemetry.seq.desc()).limit(1)).first()


def _key(row: Row, by: str | None) -> tuple[object, ...]:
    """What makes two ledger entries share a row; the price is always part of it."""
    if by is None:
        return (row.job, row.stage, row.phase, row.instance, row.price_micros)
    for name in GROUPS:
        if name != by:
            setattr(row, name, None)
    return (getattr(row, by), row.price_micros)


def _share_text(part: int, whole: int) -> str:
    """The part in percent with one decimal; 0 of nothing."""
    return f"{Decimal(100 * part) / whole:.1f}" if whole else "0.0"


def _by_the_month(
    session: Session, spent: int, running: int, running_s: int
) -> dict[str, Any] | None:
    """What the same weeks of a monthly lease would have cost; None before anything ran.

    `times` is None beyond `TIMES_MAX`; how long that money would last at the price paid here says
    more of a short run.
    """
    query = select(func.min(PowerInterval.started_ms), func.max(PowerInterval.metered_to_ms))
    ran = session.execute(query.where(PowerInterval.kind == "running")).one()
    began_ms, to_ms = cast("tuple[int | None, int]", tuple(ran))  # of no rows both are NULL
    if began_ms is None or min(spent, running, running_s) <= 0:
        return None
    weeks = max(-(-(to_ms - began_ms) // WEEK_MS), 1)
    cost = weeks * WEEK_MICROS
    return {
        "gpu": MONTHLY_GPU,
        "month_yuan": yuan_text(MONTH_MICROS),
        "week_yuan": yuan_text(WEEK_MICROS),
        "weeks": weeks,
        "would_cost_yuan": yuan_text(cost),
        "times": f"{Decimal(cost) / spent:.1f}" if cost <= TIMES_MAX * spent else None,
        "ran_hours": hours_text(running_s),
        "would_last_hours": hours_text(cost * running_s // running),
    }


def _drift_micros(instances: Sequence[Instance], posted: Mapping[int, int]) -> int:
    """Confirmed less estimated, over the instances whose bill has been read."""
    return sum(
        row.bill_micros - posted.get(row.id, 0) for row in instances if row.bill_micros is not None
    )


def _row_json(row: Row, by: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"day": row.day} if by == "day" else {}
    return shown | {
        "job": row.job,
        "stage": row.stage,
        "phase": row.phase,
        "provider": row.provider,
        "instance": row.instance,
        "gpu": row.gpu,
        "hours": hours_text(row.billed_s),
        "price_yuan_per_hour": yuan_text(row.price_micros),
        "subtotal_yuan": yuan_text(row.amount_micros),
    }
