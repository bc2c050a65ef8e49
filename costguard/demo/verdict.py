"""Judging a story: did it end as it must, is it off, do the books match the platform's bill."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.cli.client import ask
from costguard.cli.words import reason_word
from costguard.core.money import parse_yuan, yuan_text
from costguard.core.tariff import Tariff, running_micros
from costguard.lang import _
from costguard.store.database import read_only_session
from costguard.store.ledger import broken_links
from costguard.store.models import Job, Telemetry

if TYPE_CHECKING:
    from costguard.demo.scenarios import Scenario
    from costguard.demo.stage import Stage


@dataclass
class Outcome:
    """What the demo's JSON shows, and whether all of it is as it must be."""

    scenario: str
    wanted: str
    verdict: str | None
    job_state: str
    platform_bill_yuan: str
    spent_yuan: str
    cap_yuan: str
    tolerance_yuan: str
    stopped_seen: bool
    instances_left: int
    instances_made: int
    create_calls: int
    broken_entries: int
    power_intervals: int
    loss_first: float | None
    loss_last: float | None
    report: dict[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def difference_micros(self) -> int:
        """The books less the bill."""
        return parse_yuan(self.spent_yuan) - parse_yuan(self.platform_bill_yuan)

    @property
    def books_match(self) -> bool:
        """Whether ledger and bill agree within one quantum per power interval."""
        return abs(self.difference_micros) <= parse_yuan(self.tolerance_yuan)

    @property
    def within_cap(self) -> bool:
        """Whether the platform's own bill stayed within the cap."""
        return parse_yuan(self.platform_bill_yuan) <= parse_yuan(self.cap_yuan)

    @property
    def is_right(self) -> bool:
        """Whether the story ended as it must in every respect."""
        return (
            self.verdict == self.wanted
            and self.stopped_seen
            and self.instances_left == 0
            and self.instances_made == 1
            and self.create_calls == 1
            and self.broken_entries == 0
            and self.books_match
            and self.within_cap
        )

    def to_json(self) -> dict[str, Any]:
        """The document of the contract, with the counts that back it."""
        return {
            "scenario": self.scenario,
            "verdict": self.verdict,
            "job_state": self.job_state,
            "platform_bill_yuan": self.platform_bill_yuan,
            "spent_yuan": self.spent_yuan,
            "tolerance_yuan": self.tolerance_yuan,
            "stopped_seen": self.stopped_seen,
            "instances_left": self.instances_left,
            "instances_made": self.instances_made,
            "create_calls": self.create_calls,
            "broken_entries": self.broken_entries,
            "power_intervals": self.power_intervals,
            "loss_first": self.loss_first,
            "loss_last": self.loss_last,
            "duration_s": self.duration_s,
            "report": self.report,
        }


def judge(story: Scenario, job: str, on: Stage) -> Outcome:
    """Compare what costguard says with what the platform really knows."""
    row = ask("status", {"job": job})["jobs"][0]
    explained = ask("explain", {"job": job})
    report = ask("report", {})
    truth = on.truth()
    bill, intervals, tolerance = _bill(on, truth)
    losses = _losses(job, on)
    return Outcome(
        scenario=story.name,
        wanted=story.verdict,
        verdict=row["pause_reason"],
        job_state=row["state"],
        platform_bill_yuan=yuan_text(bill),
        spent_yuan=report["totals"]["estimated_yuan"],
        cap_yuan=row["budget"]["cap_yuan"],
        tolerance_yuan=yuan_text(tolerance),
        stopped_seen=explained["stop"]["confirmed_at"] is not None,
        instances_left=sum(1 for one in truth["instances"] if one["charging"]),
        instances_made=len(truth["instances"]),
        create_calls=int(truth["requests"].get("create", 0)),
        broken_entries=_broken_entries(on),
        power_intervals=intervals,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        report=report,
    )


def _bill(on: Stage, truth: dict[str, Any]) -> tuple[int, int, int]:
    """The platform's bill, its power intervals, and one billing quantum for each, in micro-yuan."""
    total = intervals = tolerance = 0
    for instance in truth["instances"]:
        for line in on.bill_lines(instance["id"]):
            total += parse_yuan(line["amount_yuan"])
            if line["kind"] == "compute":
                intervals += 1
                quantum = Tariff(parse_yuan(line["price_yuan_per_hour"]), line["quantum_s"])
                tolerance += running_micros(quantum, 0, 1)
    return total, intervals, tolerance


def _broken_entries(on: Stage) -> int:
    """How many ledger entries break the hash chain: none, unless the books were tampered with."""
    with read_only_session(on.home / "costguard.db") as session:
        return len(broken_links(session))


def _losses(job: str, on: Stage) -> list[float]:
    """Every logged loss of the job, in order, from the journal as it was stored."""
    with read_only_session(on.home / "costguard.db") as session:
        query = (
            select(Telemetry.data_json)
            .join(Job, Telemetry.job_id == Job.id)
            .where(Job.name == job, Telemetry.kind == "progress")
            .order_by(Telemetry.seq)
        )
        rows = [json.loads(text) for text in session.scalars(query)]
    return [row["loss"] for row in rows if row.get("loss") is not None]


def money_lines(outcome: Outcome) -> list[str]:
    """The last lines of a demo: bill beside books, and what is left running."""
    sign = _("agrees within {yuan}, one billing quantum a power interval")
    if not outcome.books_match:
        sign = _("DOES NOT AGREE within {yuan}")
    sign = sign.format(yuan=outcome.tolerance_yuan)
    cap = _("held") if outcome.within_cap else _("BROKEN")
    broken = _("BROKEN at {entries}").format(entries=outcome.broken_entries)
    chain = _("whole") if outcome.broken_entries == 0 else broken
    bill = _("platform's own bill  {yuan:>12} yuan")
    books = _("costguard's ledger   {yuan:>12} yuan   {sign}")
    held = _("cap                  {yuan:>12} yuan   {held}")
    made = _("instances rented   {made:>12} by {calls} call(s)")
    lines = [
        "",
        bill.format(yuan=outcome.platform_bill_yuan),
        books.format(yuan=outcome.spent_yuan, sign=sign),
        held.format(yuan=outcome.cap_yuan, held=cap),
        made.format(made=outcome.instances_made, calls=outcome.create_calls),
        _("still charged      {count:>12}").format(count=outcome.instances_left),
        _("ledger chain       {chain:>12}").format(chain=chain),
    ]
    if outcome.loss_first is not None and outcome.loss_last is not None:
        losses = _("loss: from {first} to {last}")
        lines.append(
            losses.format(first=f"{outcome.loss_first:.3f}", last=f"{outcome.loss_last:.3f}")
        )
    reached = _("verdict: {verdict}, as it must")
    if not outcome.is_right:
        reached = _("verdict: {verdict}, NOT as it must ({wanted})")
    words = {"verdict": reason_word(str(outcome.verdict)), "wanted": reason_word(outcome.wanted)}
    lines.append(reached.format(**words))
    return lines
