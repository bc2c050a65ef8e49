"""`estimate JOB.toml`: time and yuan on everything that can be rented, before a yuan is spent."""

from __future__ import annotations

import sys
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from costguard import paths
from costguard.cli.reading import print_json
from costguard.cli.text import Column, indented, labelled, print_lines, screen_of, table, wrap
from costguard.cli.words import (
    duration,
    led_by,
    money,
    phase_word,
    stage_number,
    with_aside,
)
from costguard.core.estimate import (
    BITS_4_MIB_PER_BILLION,
    LOAD_MIB_PER_S,
    MIB_PER_BILLION,
    padded_share,
)
from costguard.core.money import ceil_div, parse_yuan, yuan_text
from costguard.core.spec import model_of
from costguard.errors import EXIT_USAGE, UserError
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from costguard.cli.text import Screen
    from costguard.cli.works import Reading
    from costguard.core.spec import JobSpec

    Document = Mapping[str, Any]

S_PER_HOUR = 3_600


def show_estimate(path: Path, budget: str | None, *, as_json: bool) -> int:
    """What the job will take and cost; nothing is rented, and no daemon is needed."""
    from costguard.cli.works import read_works
    from costguard.daemon.clock import SystemClock
    from costguard.daemon.estimate import estimate_document
    from costguard.jobfile import load_job
    from costguard.settings import load_settings

    settings = load_settings(paths.ensure_home())
    spec = load_job(path, budget)
    reading = read_works(spec)
    if reading is None:
        what = _("how much a command of your own computes is not known")
        hint = _("run it for a short while: status then says what it will cost to the end")
        raise UserError("no_estimate", what, str(path), hint, EXIT_USAGE)
    now = SystemClock().now()
    found = estimate_document(settings, now, spec, reading.works, in_4_bits=reading.facts.in_4_bits)
    document = {
        **found,
        "data": {
            "samples": reading.data.samples,
            "tokens": reading.data.tokens,
            "longest_tokens": reading.data.longest_tokens,
            "counted_by": reading.data.counted_by,
        },
        "savings": _savings(found, spec, reading),
    }
    if as_json:
        print_json(document)
    else:
        print_lines(estimate_lines(document, screen_of(sys.stdout)))
    return 0


# --------------------------------------------------------------------------- savings


def _savings(found: Document, spec: JobSpec, reading: Reading) -> list[dict[str, Any]]:
    """What a habit saves on the plan that is shown; `is_in_figures` where it is done anyway."""
    plan = _shown(found)
    if plan is None:
        return []
    price = parse_yuan(plan["price_yuan_per_hour"])
    trained_s = sum(part["time_s"] for part in plan["parts"] if part["what"] == "train")
    padding = padded_share(reading.data.histogram, reading.facts.batch_size) - 1
    download_s = sum(part["time_s"] for part in plan["parts"] if part["what"] == "download")
    from costguard.daemon.foretell import billions_of

    billions = billions_of(model_of(spec.to_json())) or Fraction(0)
    fewer_mib = billions * (MIB_PER_BILLION - BITS_4_MIB_PER_BILLION)
    later_starts = len(spec.runs) - 1
    saved = [
        ("packing", round(trained_s * padding), True),
        ("prequantised_copy", round(later_starts * fewer_mib / LOAD_MIB_PER_S[1]), True),
        ("kept_disk", download_s, False),
    ]
    return [
        {
            "what": what,
            "saves_s": seconds,
            "saves_yuan": yuan_text(ceil_div(price * seconds, S_PER_HOUR)),
            "is_in_figures": in_figures,
        }
        for what, seconds, in_figures in saved
        if seconds > 0
    ]


def _shown(document: Document) -> Document | None:
    """The plan that is shown in full: the cheapest that fits, else the one asked for, else any."""
    plans: list[Document] = list(document["plans"])
    if document["cheapest"] is not None:
        return plans[document["cheapest"]]
    asked = [plan for plan in plans if plan["is_asked_for"]]
    return next(iter([*asked, *plans]), None)


# --------------------------------------------------------------------------- for a person


def estimate_lines(document: Document, screen: Screen) -> list[str]:
    """The work, every plan as a table, the one to take part by part, and what would save."""
    lines = _work_lines(document, screen)
    plans = document["plans"]
    if not plans:
        lines += ["", _("nothing is offered whose speed is known")]
    else:
        lines += ["", *_plans_table(plans, screen)]
        if any(plan["speed_kind"] == "calculated" for plan in plans):
            lines += indented(_("* the card's speed is calculated, not measured"), screen)
        lines += ["", *_chosen_lines(document, screen)]
    if document["reuse"] is not None:
        text = _("{instance}, paused since {job}: no set-up and no download there").format(
            instance=document["reuse"]["instance"], job=document["reuse"]["paused_since"]
        )
        lines += labelled(_("goes on"), [text], screen)
    for each in document["savings"]:
        lines += labelled(_("saves"), [_saving_text(each, screen)], screen)
    for each in document["unknown"]:
        text = _("{provider} {gpu}: its speed is not known")
        lines += indented(text.format(provider=each["provider"], gpu=each["gpu"]), screen)
    for each in document["failed"]:
        lines += indented(led_by(each["provider"], retell(each["what"])), screen)
    return lines


def _work_lines(document: Document, screen: Screen) -> list[str]:
    data = document["data"]
    counted = _("estimated from characters") if data["counted_by"] == "characters" else ""
    head = _("{job}: {samples} samples, {tokens} tokens").format(
        job=document["job"], samples=f"{data['samples']:,}", tokens=f"{data['tokens']:,}"
    )
    lines = [with_aside(head, counted) if counted else head]
    for each in document["stages"]:
        text = _("{samples} samples, {epochs} epoch(s), {steps} steps of {size}, {tokens} tokens")
        told = text.format(
            samples=f"{each['samples']:,}",
            epochs=each["epochs"],
            steps=f"{each['steps']:,}",
            size=each["samples_per_step"],
            tokens=f"{each['tokens']:,}",
        )
        lines += labelled(f"{_('stage')} {stage_number(each['stage'])}", [told], screen)
    return lines


def _plans_table(plans: list[Document], screen: Screen) -> list[str]:
    words = {"fits": _("fits"), "tight": _("may not"), "short": _("NO")}
    columns = [
        Column(_("provider"), elastic=True),
        Column("GPU", elastic=True),
        Column(_("per hour"), right=True),
        Column(_("a step"), right=True),
        Column(_("time"), right=True),
        Column(_("yuan"), right=True),
        Column(_("from"), right=True),
        Column(_("to"), right=True),
        Column(_("cap")),
        Column(_("stock"), optional=True),
    ]
    stock = {True: _("yes"), False: _("sold out"), None: "?"}
    rows = [
        [
            plan["provider"],
            (f"{plan['gpu_count']} x " if plan["gpu_count"] > 1 else "") + plan["gpu"],
            money(plan["price_yuan_per_hour"], screen),
            _step_text(plan),
            duration(plan["time_s"]),
            money(plan["cost_yuan"], screen),
            money(plan["cost_low_yuan"], screen),
            money(plan["cost_high_yuan"], screen),
            words[plan["fit"]],
            stock[plan["in_stock"]],
        ]
        for plan in plans
    ]
    return table(columns, rows, screen)


def _step_text(plan: Document) -> str:
    mark = "*" if plan["speed_kind"] == "calculated" else ""
    seconds = f"{Decimal(max(plan['step_ms'], default=0)) / 1000:.2f}"
    return _("{seconds} s").format(seconds=seconds) + mark


def _chosen_lines(document: Document, screen: Screen) -> list[str]:
    plan = _shown(document)
    assert plan is not None, "there are plans"
    if document["cheapest"] is None:
        head = _("NOTHING FITS the cap of {cap}; the nearest: {provider} {gpu}")
    elif plan["fit"] == "tight":
        head = _("cheapest that likely fits the cap of {cap}: {provider} {gpu}")
    else:
        head = _("cheapest that fits the cap of {cap}: {provider} {gpu}")
    cap = money(document["cap_yuan"], screen)
    head = head.format(cap=cap, provider=plan["provider"], gpu=plan["gpu"])
    lines = [screen.paint(line, "bold") for line in wrap(head, screen.columns)]
    columns = [
        Column(_("part"), elastic=True),
        Column(_("stage"), right=True),
        Column(_("steps"), right=True),
        Column(_("time"), right=True),
        Column(_("from"), right=True),
        Column(_("to"), right=True),
        Column(_("yuan"), right=True),
    ]
    rows = [
        [
            _part_word(part["what"]) + ("" if part["what"] in _known(plan) else " +"),
            stage_number(part["stage"]),
            "-" if part["steps"] is None else f"{part['steps']:,}",
            duration(part["time_s"]),
            duration(part["time_low_s"]),
            duration(part["time_high_s"]),
            money(part["cost_yuan"], screen),
        ]
        for part in plan["parts"]
    ]
    lines += table(columns, rows, screen)
    lines += indented(_("+ assumed: this home has not measured it yet"), screen)
    lines += labelled(_("speed"), [_speed_text(plan)], screen)
    lines += labelled(_("cap"), _cap_parts(plan, screen), screen)
    return lines


def _known(plan: Document) -> set[str]:
    """The parts that rest on a measurement or on the speed, which is told by itself."""
    return {"train", *plan["measured_parts"]}


def _part_word(what: str) -> str:
    return {"home": _("bring home"), "stop": _("stop")}.get(what) or phase_word(what)


def _speed_text(plan: Document) -> str:
    kinds = {
        "measured_here": _("measured here"),
        "measured_elsewhere": _("measured elsewhere"),
        "calculated": _("calculated"),
    }
    return _("{speed} tokens/s a card, {kind}: {source}").format(
        speed=f"{plan['tokens_per_s']:,}",
        kind=kinds[plan["speed_kind"]],
        source=retell(plan["speed_source"]),
    )


def _cap_parts(plan: Document, screen: Screen) -> list[str]:
    parts = []
    if Decimal(plan["disk_yuan"]):
        held = _("{disk} of it is kept for the paused disk")
        parts.append(held.format(disk=money(plan["disk_yuan"], screen)))
    if plan["reaches_s"] is not None:
        reach = _("what is left allows {time} of running")
        parts.append(reach.format(time=duration(plan["reaches_s"])))
    bite = plan["bites_at"]
    if bite is None:
        return parts
    if bite["step"] is None:
        text = _("WILL NOT FIT: the budget ends while it is at: {part}")
        return [*parts, text.format(part=_part_word(bite["what"]))]
    text = _("WILL NOT FIT: the budget ends near step {step} of stage {stage}")
    return [*parts, text.format(step=bite["step"], stage=stage_number(bite["stage"]))]


def _saving_text(each: Document, screen: Screen) -> str:
    text = {
        "packing": _(
            "packing: batches padded to their longest sample would take {time} ({yuan}) more"
        ),
        "prequantised_copy": _(
            "the 4-bit copy that the trainer keeps beside the model: {time} ({yuan}) less to read"
            " at the later stages"
        ),
        "kept_disk": _(
            "a resume on the kept disk, or an image with the model in it: no download, {time}"
            " ({yuan})"
        ),
    }[each["what"]]
    text = text.format(time=duration(each["saves_s"]), yuan=money(each["saves_yuan"], screen))
    return with_aside(text, _("in the figures already")) if each["is_in_figures"] else text
