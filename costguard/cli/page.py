"""The report as one page of HTML: it opens offline, prints on A4 and asks for nothing.

Figures are the document's own, formatted as the terminal formats them. The page forbids itself
every request (Content-Security-Policy) and has no script; whatever a name contains is escaped.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from costguard import __version__
from costguard.cli.advice import advice_text, cost_parts, saved_text
from costguard.cli.plots import Axis, Line, Tick, axis, bar, plot
from costguard.cli.render import state_text
from costguard.cli.spend import month_words, report_cell, report_columns
from costguard.cli.text import Screen
from costguard.cli.words import (
    duration_of_hours,
    led_by,
    money,
    one_after_other,
    percent,
    phase_word,
    reason_word,
    stage_number,
    with_aside,
)
from costguard.errors import EXIT_USAGE, UserError
from costguard.lang import _, selected
from costguard.retell import retell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from costguard.cli.words import Document

SCREEN = Screen(columns=80, colour=False, encoding="utf-8")
NO_REQUESTS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CAP_ROOM = 4  # a cap so many times what was committed would flatten every curve: it is told
HALF_DAY_S, SHORT_S = 43_200, 600
OPTIONAL = frozenset(
    {"provider", "instance", "stage", "gpu", "price_yuan_per_hour"}
)  # left out on a phone


def write_page(document: Document, path: Path) -> None:
    """Write the page, whole or not at all; UserError where that cannot be done."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(page_html(document), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        what = _("the page cannot be written: {why}").format(why=error.strerror or error)
        hint = _("name a file in a folder that is there and yours")
        raise UserError("page_not_written", what, str(path), hint, EXIT_USAGE) from error


def page_html(document: Document) -> str:
    """The whole page in the language that was selected."""
    report, title = document["report"], _("costguard: spend to date")
    language = {"zh": "zh-CN"}.get(selected(), "en")
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_full_time(document["as_of"]))}</p>',
        _totals(report["totals"]),
        _by_the_month(report),
        _table(report),
        *[_job(item) for item in document["jobs"]],
        _footer(document),
    ]
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_REQUESTS}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{css}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


# --------------------------------------------------------------------------- the money


def _totals(totals: Document) -> str:
    billed = duration_of_hours(totals["billed_hours"])
    tiles = [
        (_("spent"), totals["spent_yuan"], _("{time} billed").format(time=billed)),
        (_("cap"), totals["cap_yuan"], ""),
        (_("left"), totals["left_yuan"], ""),
        (_("reserved"), totals["reserved_yuan"], ""),
        (_("worst case"), totals["worst_case_yuan"], ""),
        (_("set-up"), totals["setup_yuan"], _share(totals["setup_percent"])),
        (_("idle"), totals["idle_yuan"], _share(totals["idle_percent"])),
        (_("paused disk"), totals["disk_yuan"], ""),
        (_("as metered here"), totals["estimated_yuan"], ""),
        (_("confirmed by the platform"), totals["confirmed_yuan"], ""),
        (_("drift"), totals["drift_yuan"], ""),
        (_("overrun"), totals["overrun_yuan"], ""),
    ]
    return '<div class="tiles">' + "".join(_tile(*each) for each in tiles) + "</div>"


def _share(of_all: object) -> str:
    return "" if of_all is None else percent(str(of_all))


def _tile(label: str, yuan: str, beside: str) -> str:
    small = f"<small>{escape(beside)}</small>" if beside else ""
    return (
        f'<div class="tile"><span>{escape(label)}</span><b>{escape(money(yuan, SCREEN))}</b>'
        f"{small}</div>"
    )


def _by_the_month(report: Document) -> str:
    words = month_words(report.get("by_the_month"), SCREEN)
    return f"<p>{escape(words)}</p>" if words else ""


def _table(report: Document) -> str:
    rows = report["rows"]
    if not rows:
        return f"<p>{escape(_('nothing was spent yet'))}</p>"
    columns = report_columns(rows)
    head = "".join(
        f"<th{_cell_class(key, right=column.right)}>{escape(column.title)}</th>"
        for key, column in columns
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{_cell_class(key, right=column.right)}>"
            f"{escape(report_cell(key, row.get(key), SCREEN))}</td>"
            for key, column in columns
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _cell_class(key: str, *, right: bool) -> str:
    names = ["n"] * right + ["opt"] * (key in OPTIONAL)
    return f' class="{" ".join(names)}"' if names else ""


# --------------------------------------------------------------------------- one job


def _job(item: Document) -> str:
    row, explain, drawn = item["status"], item["explain"], item["series"]
    state = escape(state_text(row, SCREEN))
    css = "loud" if row["breach"] else "soft"
    parts = [
        f'<section><h2>{escape(row["job"])} <small class="{css}">{state}</small></h2>',
        f"<p>{_coded(one_after_other(cost_parts(explain['cost'], SCREEN)))}</p>",
        _verdicts(explain),
    ]
    if drawn is not None:
        parts.append(_charts(drawn))
    parts.append(_list(_("saved"), [saved_text(each) for each in explain["saved"]]))
    parts.append(_list(_("advice"), [advice_text(each) for each in explain["advice"]]))
    parts.append(_list(_("next"), [retell(text) for text in explain["next"]]))
    return "".join(parts) + "</section>"


def _verdicts(explain: Document) -> str:
    found = [
        f"<p><b>{escape(reason_word(each['guard']))}</b> "
        f"{_coded(led_by(_full_time(each['at']), retell(each['text'] or '')))}</p>"
        for each in explain["verdicts"]
    ]
    if explain["stop"]["confirmed_at"]:
        proof = _("the meter has stopped: confirmed at {time}").format(
            time=_full_time(explain["stop"]["confirmed_at"])
        )
        found.append(f"<p>{_coded(proof)}</p>")
    return "".join(found)


def _list(title: str, texts: list[str]) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{_coded(text)}</li>" for text in texts)
    return f'<h3>{escape(title)}</h3><ul class="plain">{items}</ul>'


def _coded(text: str) -> str:
    """`text` escaped, what stands between backticks as code, and no line broken inside a time."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", r"<time>\g<0></time>", marked)


def _charts(drawn: Document) -> str:
    ticks = _time_ticks(drawn["from"], float(drawn["length_s"]))
    charts = [
        f'<div class="wide">{_money_chart(drawn, ticks)}</div>',
        _gpu_chart(drawn, ticks),
        _loss_chart(drawn, ticks),
        f'<div class="wide">{_phase_bars(drawn["phases"])}</div>',
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def _money_chart(drawn: Document, ticks: list[Tick]) -> str:
    length, cap = float(drawn["length_s"]), float(drawn["cap_yuan"])
    points = [{"at_s": 0, "spent_yuan": "0", "committed_yuan": "0"}, *drawn["money"]]
    spent = [(float(each["at_s"]), float(each["spent_yuan"])) for each in points]
    held = [(float(each["at_s"]), float(each["committed_yuan"])) for each in points]
    most = max(value for _at, value in held)
    in_sight = most * CAP_ROOM >= cap
    lines = [
        Line(_("spent"), "blue", spent, filled=True),
        Line(_("spent and reserved for leases"), "amber", held, steps=True),
    ]
    title = _("Yuan against the cap")
    if in_sight:
        lines.append(Line(_("cap"), "red", [(0, cap), (length, cap)]))
    else:
        told = _("the cap, {cap}, is far above")
        title = with_aside(title, told.format(cap=money(drawn["cap_yuan"], SCREEN)))
    upright = axis(0, max(most, cap) * 1.02 if in_sight else most or 1, "¥{}")
    return plot(title, lines, length, upright, ticks)


def _gpu_chart(drawn: Document, ticks: list[Tick]) -> str:
    title = _("GPU, percent")
    lines = [
        Line(
            name, css, [(each["at_s"], each[key]) for each in drawn["gpu"] if each[key] is not None]
        )
        for name, css, key in (
            (_("utilisation"), "green", "util_percent"),
            (_("highest"), "green faint", "util_max_percent"),
            (_("memory"), "violet", "memory_percent"),
        )
    ]
    if not any(line.points for line in lines):
        return _without(title, _("no GPU was seen through NVML"))
    return plot(title, lines, float(drawn["length_s"]), _percent_axis(), ticks)


def _loss_chart(drawn: Document, ticks: list[Tick]) -> str:
    title, points = _("Loss"), drawn["loss"]
    if not points:
        return _without(title, _("no loss was logged"))
    colours = ("blue", "amber", "green", "violet")
    stages = sorted({each["stage"] for each in points})
    lines = [
        Line(
            _("loss of stage {stage}").format(stage=stage_number(stage))
            if len(stages) > 1
            else _("loss"),
            colours[n % len(colours)],
            [(each["at_s"], each["loss"]) for each in points if each["stage"] == stage],
        )
        for n, stage in enumerate(stages)
    ]
    losses = [each["loss"] for each in points]
    upright = axis(min(losses), max(losses))
    return plot(title, lines, float(drawn["length_s"]), upright, ticks)


def _without(title: str, why: str) -> str:
    head = f"<figcaption>{escape(title)}</figcaption>"
    return f'<figure>{head}<p class="soft">{escape(why)}</p></figure>'


def _phase_bars(phases: Iterable[Document]) -> str:
    rows = list(phases)
    most = max((Decimal(each["subtotal_yuan"]) for each in rows), default=Decimal(0)) or Decimal(1)
    several = len({each["stage"] for each in rows if each["phase"] != "disk"}) > 1
    cells = "".join(
        f"<span>{escape(_phase_name(each, several=several))}</span>"
        f"{bar(float(Decimal(each['subtotal_yuan']) / most), _phase_colour(each))}"
        f'<span class="n">{escape(money(each["subtotal_yuan"], SCREEN))}</span>'
        f'<span class="n soft opt">{escape(duration_of_hours(each["hours"]))}</span>'
        for each in rows
    )
    title = escape(_("Yuan by phase"))
    return f'<figure><figcaption>{title}</figcaption><div class="bars">{cells}</div></figure>'


def _phase_name(each: Document, *, several: bool) -> str:
    name = phase_word(str(each["phase"] or "-"))
    if several and each["phase"] != "disk" and each["stage"] is not None:
        return f"{_('stage')} {stage_number(each['stage'])}  {name}"
    return name


def _phase_colour(each: Document) -> str:
    return {"train": "green", "disk": "violet"}.get(str(each["phase"]), "blue")


# --------------------------------------------------------------------------- axes and times


def _percent_axis() -> Axis:
    return Axis(0, 100, tuple(Tick(n / 4, percent(f"{25 * n}")) for n in range(5)))


def _time_ticks(began: str, length_s: float) -> list[Tick]:
    """Five times of day; with seconds where minutes would all be the same."""
    start = _local(began)
    form = "%H:%M:%S" if length_s < SHORT_S else "%H:%M"
    if length_s > HALF_DAY_S:
        form = "%m-%d %H:%M"
    return [
        Tick(n / 4, (start + timedelta(seconds=length_s * n / 4)).strftime(form)) for n in range(5)
    ]


def _local(utc: str) -> datetime:
    return datetime.fromisoformat(utc.replace("Z", "+00:00")).astimezone()


def _full_time(utc: object) -> str:
    return "-" if not utc else _local(str(utc)).strftime("%Y-%m-%d %H:%M:%S")


def _footer(document: Document) -> str:
    lines = [f"costguard {__version__}"]
    if document["jobs_left_out"]:
        left_out = _("{count} older jobs are in the table only")
        lines.append(left_out.format(count=document["jobs_left_out"]))
    return f"<footer>{escape('; '.join(lines))}</footer>"
