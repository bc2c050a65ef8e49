"""What the seeds' worlds contain, beside their faults: counted, and never drawn, here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from costguard.sim.scenario import Order, Scenario

LONG_DOWNLOAD_MS = 20 * 60_000


def contents(scenario: Scenario) -> frozenset[str]:
    """A word for each thing that this world has and another may lack."""
    return frozenset(_contents(scenario))


def _contents(scenario: Scenario) -> Iterator[str]:
    orders = scenario.orders
    if len(orders) > 1:
        yield "several_jobs"
    if len({order.spec.project for order in orders}) > 1:
        yield "several_projects"
    if scenario.strangers:
        yield "another_installation"
    if scenario.caps.month_micros is not None:
        yield "month_cap"
    if scenario.caps.project_micros:
        yield "project_cap"
    yield from _platform(scenario)
    for order in orders:
        yield from _training(order)
    for act in scenario.acts:
        yield f"person_{act.do}"


def _platform(scenario: Scenario) -> Iterator[str]:
    facts, prices = scenario.facts, scenario.prices
    yield {1: "per_second", 60: "per_minute"}.get(prices.quantum_s, "per_hour")
    if prices.by_clock:
        yield "quanta_on_the_clock"
    if prices.night_per_mille < 1_000:
        yield "cheaper_nights"
    if prices.minimum_s:
        yield "minimum_charge"
    if prices.disk:
        yield "paid_disk"
    if facts.timer_min_lead_ms is not None:
        yield "timer_at_create" if facts.arms_timer_at_create else "timer"
    if facts.in_guest_stop_proven:
        yield "stop_from_inside"
    if facts.cache_age_ms:
        yield "cached_reads"
    if not facts.tells_meter_end:
        yield "meter_end_untold"


def _training(order: Order) -> Iterator[str]:
    script = order.script
    yield f"training_{script.fault}" if script.fault else "training_healthy"
    if script.ignores_stop:
        yield "training_ignores_stop"
    if script.download_ms >= LONG_DOWNLOAD_MS:
        yield "long_download"
    if any(kind == "phase" and fields["phase"] == "evaluate" for _, kind, fields in script.entries):
        yield "evaluation"
    if order.spec.best_effort:
        yield "best_effort"
