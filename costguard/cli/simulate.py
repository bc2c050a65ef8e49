"""`costguard simulate`: budget and guards against as many bad nights as wanted."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from costguard.cli.reading import print_json
from costguard.cli.words import led_by
from costguard.errors import EXIT_INTERNAL, EXIT_USAGE, UserError
from costguard.lang import _

if TYPE_CHECKING:
    from collections.abc import Mapping

DAYS = {1: 7.0, 2: 1.0}


def simulate(
    seeds: int, first_seed: int, days: float | None, tier: int, jobs: int | None, *, as_json: bool
) -> int:
    """Play the seeds and show what they came to; the exit code is 1 if anything was violated."""
    if tier not in DAYS or seeds < 1 or (days is not None and days <= 0):
        what = _("there are two tiers, and at least one seed and a part of a day to play")
        hint = "costguard simulate --seeds 100 --tier 1"
        raise UserError("usage", what, "simulate", hint, EXIT_USAGE)
    from costguard.sim.run import Summary, play_seeds

    logging.disable(logging.CRITICAL)  # what a simulated daemon logs is no news
    summary = Summary(tier, first_seed, days or DAYS[tier])
    processes = jobs or (1 if seeds < 4 else os.cpu_count() or 1)
    for result in play_seeds(
        range(first_seed, first_seed + seeds), tier, summary.days, min(processes, seeds)
    ):
        summary.add(result)
    document = summary.document()
    if as_json:
        print_json(document)
    else:
        _show(document)
    return EXIT_INTERNAL if summary.violations else 0


def _show(document: Mapping[str, Any]) -> None:
    print(
        _("{seeds} bad nights, {days} simulated days, {faults} faults").format(
            seeds=document["seeds"],
            days=document["simulated_days"],
            faults=document["faults_injected"],
        )
    )
    for key, text in (
        ("overspend_yuan_max", _("worst overspend that an enforcer should have prevented, yuan")),
        (
            "overrun_unenforceable_yuan_max",
            _("worst overspend that nobody could prevent, as printed before, yuan"),
        ),
        (
            "overcharged_yuan_max",
            _("worst charge beyond what ran or had to be assumed, yuan"),
        ),
        ("orphans", _("instances left running")),
        ("false_stops", _("stops shown that were none")),
        ("wrong_pauses", _("healthy runs paused by mistake")),
    ):
        print("  " + led_by(text, str(document[key])))
    for violation in document["violations"]:
        print("  {invariant}, seed {seed}, tick {tick}: {detail}".format(**violation))
