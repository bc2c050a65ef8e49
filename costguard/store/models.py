"""The tables. Times are UTC milliseconds, money is micro-yuan, JSON is text.

`*_boot_ms` stands beside `*_utc_ms` where a duration will be counted, with the boot it belongs to.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


BY_HAND = "by_hand"  # of an instance that nobody but a person can stop


class Base(DeclarativeBase):
    """Every table carries named constraints, so that migrations can name them too."""

    metadata = MetaData(naming_convention=NAMING)


class Meta(Base):
    """Single facts about this home, such as its installation id."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class BudgetRow(Base):
    """A cap that a person has set on a project or a month; it goes before the config's."""

    __tablename__ = "budgets"
    scope: Mapped[str] = mapped_column(primary_key=True)  # project, month
    name: Mapped[str] = mapped_column(primary_key=True)
    cap_micros: Mapped[int]
    set_ms: Mapped[int]


class Job(Base):
    """One thing asked for. `version` is the compare-and-set counter of guarded updates."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(default=0)
    name: Mapped[str] = mapped_column(index=True)
    project: Mapped[str] = mapped_column(index=True)
    spec_json: Mapped[str]
    submit_key: Mapped[str] = mapped_column(unique=True)
    created_ms: Mapped[int]
    state: Mapped[str] = mapped_column(default="queued")
    wish: Mapped[str] = mapped_column(default="run")  # run, pause, release, pull, visit, keep
    pause_reason: Mapped[str | None]
    breach: Mapped[bool] = mapped_column(default=False)
    cap_micros: Mapped[int]
    hold_micros: Mapped[int] = mapped_column(default=0)
    stage: Mapped[int] = mapped_column(default=0)
    stage_since_ms: Mapped[int | None]  # when this stage became due, for a stage after the first
    attempt: Mapped[int] = mapped_column(default=0)  # how often it was resumed
    first_seq: Mapped[int] = mapped_column(default=0)  # what came before is an earlier attempt's
    collected: Mapped[bool] = mapped_column(default=False)  # this attempt was switched on to ask
    phase: Mapped[str | None]
    launched_ms: Mapped[int | None]  # the agent said that training was started
    exit_json: Mapped[str | None]  # the agent's exit record, once there is one
    verdict_text: Mapped[str | None]
    verdict_json: Mapped[str | None]
    verdict_utc_ms: Mapped[int | None]
    verdict_boot_ms: Mapped[int | None]
    verdict_boot_id: Mapped[str | None]
    last_seq: Mapped[int] = mapped_column(default=0)  # newest journal record stored
    forecast_json: Mapped[str | None]  # what finishing is likely to cost, as last reckoned
    retry_at_ms: Mapped[int | None]
    closed_ms: Mapped[int | None]

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  (SQLAlchemy's own form)


class Instance(Base):
    """One rented machine, as far as this home knows."""

    __tablename__ = "instances"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    provider: Mapped[str]
    provider_id: Mapped[str | None]
    tag: Mapped[str] = mapped_column(unique=True)
    gpu: Mapped[str | None]
    price_micros_per_hour: Mapped[int]
    quantum_s: Mapped[int]
    paused_micros_per_hour: Mapped[int] = mapped_column(default=0)
    tariff_json: Mapped[str | None]  # the whole billing rule; None: the three figures above are it
    power: Mapped[str] = mapped_column(default="unknown")
    host_key: Mapped[str | None]
    last_call_utc_ms: Mapped[int | None]  # the last start or stop call, when it was sent
    last_call_boot_ms: Mapped[int | None]
    last_call_boot_id: Mapped[str | None]
    stop_calls: Mapped[int] = mapped_column(default=0)  # since the last start
    stop_accepted: Mapped[bool] = mapped_column(default=False)  # the last stop call
    was_on: Mapped[bool] = mapped_column(default=False)  # seen running since the last start
    started_call_ms: Mapped[int | None]
    created_ms: Mapped[int | None]
    work_dir: Mapped[str | None]
    timer_at_ms: Mapped[int | None]  # as read back
    absent_since_ms: Mapped[int | None]
    agent_until_ms: Mapped[int | None]  # the end of the lease that its agent was last granted
    guest_stop: Mapped[str] = mapped_column(default="none")  # unproven, given, proven, by_hand
    stopped_seen_ms: Mapped[int | None]  # I4 held at this time
    released_ms: Mapped[int | None]
    replaced_ms: Mapped[int | None]  # its job goes on without it, on a new one
    bill_micros: Mapped[int | None]
    bill_read_ms: Mapped[int | None]
    attested_stop_ms: Mapped[int | None]  # a person's word on when it stopped, never a proof
    attested_at_ms: Mapped[int | None]  # when that word was given


class PowerReadRow(Base):
    """The latest power reads of an instance; a short tail is kept for the proof of a stop."""

    __tablename__ = "power_reads"
    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    power: Mapped[str]
    begun_utc_ms: Mapped[int]
    begun_boot_ms: Mapped[int]
    boot_id: Mapped[str]


class PowerInterval(Base):
    """A stretch of time under one price: what the meter turns into charges.

    `kind` is `running` or `disk`. A price change closes one interval and opens the next, which goes
    on counting from the `origin_ms` of the first. `price_micros_per_hour` is the price in force.
    """

    __tablename__ = "power_intervals"
    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str]  # running, disk
    price_micros_per_hour: Mapped[int]
    quantum_s: Mapped[int]
    tariff_json: Mapped[str | None]  # the whole billing rule; None: the two figures above are it
    origin_ms: Mapped[int | None]  # when rent began; None: at `started_ms`
    earliest_ms: Mapped[int | None]  # before when rent surely had not begun
    started_ms: Mapped[int]
    anchor_utc_ms: Mapped[int]  # when the read that opened it began
    anchor_boot_ms: Mapped[int]
    anchor_boot_id: Mapped[str]
    seen_to_ms: Mapped[int]  # the last read that showed it on
    seen_told_ms: Mapped[int | None]  # what the platform's clock said then, where that was told
    seen_boot_id: Mapped[str | None]  # and our boot
    metered_to_ms: Mapped[int]
    ended_ms: Mapped[int | None]
    posted_micros: Mapped[int] = mapped_column(default=0)


class LeaseRow(Base):
    """Running time whose price is reserved; renewed in place, each renewal a ledger entry."""

    __tablename__ = "leases"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    seq: Mapped[int]
    state: Mapped[str] = mapped_column(index=True)  # open, settled
    started_utc_ms: Mapped[int]
    started_boot_ms: Mapped[int]
    end_utc_ms: Mapped[int]
    end_boot_ms: Mapped[int]
    armed_end_utc_ms: Mapped[int]  # how far every enforcer has been told; never beyond the end
    boot_id: Mapped[str]
    latency_ms: Mapped[int]  # L, as reserved
    months: Mapped[str]  # the budget months it may touch, comma-separated
    final: Mapped[bool]
    cut: Mapped[int] = mapped_column(default=0)  # how often its end was brought forward


class LedgerEntry(Base):
    """One line of the books: never changed, never deleted (the database's triggers see to it).

    kind        amount_micros                      covered_micros
    reserve     what is promised to a lease        0
    charge      what was metered                   the part that its lease covered
    settle      what a lease did not use           0
    adjust      a correction, with its reason      0
    """

    __tablename__ = "ledger"
    __table_args__ = (
        # The convention puts its prefix before these once more: so the first migration named them.
        CheckConstraint("kind IN ('reserve', 'charge', 'settle', 'adjust')", name="ck_ledger_kind"),
        CheckConstraint("amount_micros >= 0 OR kind = 'adjust'", name="ck_ledger_sign"),
        CheckConstraint(
            "covered_micros BETWEEN 0 AND max(amount_micros, 0)", name="ck_ledger_covered"
        ),
        Index("ix_ledger_job_id_to_ms", "job_id", "to_ms"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    at_ms: Mapped[int]
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    project: Mapped[str] = mapped_column(index=True)
    month: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    amount_micros: Mapped[int]
    covered_micros: Mapped[int]
    lease_id: Mapped[int | None] = mapped_column(ForeignKey("leases.id"), index=True)
    interval_id: Mapped[int | None] = mapped_column(ForeignKey("power_intervals.id"), index=True)
    from_ms: Mapped[int | None]
    to_ms: Mapped[int | None]
    stage: Mapped[int | None]
    phase: Mapped[str | None]
    key: Mapped[str] = mapped_column(unique=True)
    note: Mapped[str]
    previous_hash: Mapped[str]
    hash: Mapped[str] = mapped_column(unique=True)


class LedgerSum(Base):
    """What the entries of one kind, place and quarter of an hour come to.

    Written by the database's own trigger in the transaction that appends, so that no sum has to
    look at every entry; `costguard ledger verify` adds the entries up and compares. 0, -1 and ''
    stand for "none". `slot` is the entry's `to_ms` in quarters of an hour since 1970, the
    largest step that no time zone's midnight cuts; 0 for what belongs to no interval.
    """

    __tablename__ = "ledger_sums"
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    project: Mapped[str] = mapped_column(primary_key=True, index=True)
    month: Mapped[str] = mapped_column(primary_key=True, index=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    lease_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    interval_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    stage: Mapped[int] = mapped_column(primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True)
    first_id: Mapped[int]  # the first entry that it sums up
    entries: Mapped[int]
    amount_micros: Mapped[int]
    covered_micros: Mapped[int]


class VisitRow(Base):
    """A person's stay on an ended job's instance: to look around, to talk to it, to export."""

    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    purpose: Mapped[str]  # shell, chat, export
    length_ms: Mapped[int]
    asked_ms: Mapped[int]
    until_utc_ms: Mapped[int | None]  # counted from the start call; None: not switched on yet
    until_boot_ms: Mapped[int | None]
    until_boot_id: Mapped[str | None]
    heard_utc_ms: Mapped[int]  # the visitor's last sign of life
    heard_boot_ms: Mapped[int]
    heard_boot_id: Mapped[str]
    why: Mapped[str | None]  # it is over, and why; the stop may still have to be proven
    closed_ms: Mapped[int | None]  # the stop after it was proven, or nothing was switched on


class Intent(Base):
    """An outside effect that is about to be asked for, was asked for, or is unclear."""

    __tablename__ = "intents"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str]  # create, start, stop, release, arm
    key: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]  # open, done, failed, unclear
    created_ms: Mapped[int]
    closed_ms: Mapped[int | None]
    detail: Mapped[str]


class Command(Base):
    """What a person told the daemon to do; the same key is never carried out twice."""

    __tablename__ = "commands"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    do: Mapped[str]
    args_json: Mapped[str]
    created_ms: Mapped[int]
    result_json: Mapped[str]


class Event(Base):
    """Something a person may want to read: state changes, verdicts, alarms."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    at_ms: Mapped[int]
    kind: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]
    data_json: Mapped[str]


class Telemetry(Base):
    """The agent's journal as it arrived, by its own numbers: nothing twice, nothing missing."""

    __tablename__ = "telemetry"
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    stage: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(index=True)
    at_ms: Mapped[int]
    received_ms: Mapped[int]
    data_json: Mapped[str]


class Artifact(Base):
    """A checkpoint or adapter that exists on the instance, and whether it is home."""

    __tablename__ = "artifacts"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    stage: Mapped[int]
    name: Mapped[str]
    kind: Mapped[str]
    step: Mapped[int]
    complete: Mapped[bool]
    files_json: Mapped[str]
    seen_ms: Mapped[int]
    pulled_ms: Mapped[int | None]
    path: Mapped[str | None]


class Notice(Base):
    """Something that a person is to be told, wherever they are. The same key is told once."""

    __tablename__ = "notices"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    at_ms: Mapped[int]
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str]
    data_json: Mapped[str]


class Delivery(Base):
    """One notice on its way to one channel; `sent` only once the channel itself has said so."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("(state = 'sent') = (sent_ms IS NOT NULL)", name="ck_deliveries_sent"),
    )
    notice_id: Mapped[int] = mapped_column(ForeignKey("notices.id"), primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="waiting", index=True)  # waiting, sent, given_up
    attempts: Mapped[int] = mapped_column(default=0)
    next_ms: Mapped[int]
    sent_ms: Mapped[int | None]
    error: Mapped[str | None]  # why the last attempt failed; never an address, never a secret
