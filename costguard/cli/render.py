"""Draw the daemon's documents as text. Every figure is taken from the document as it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from costguard.cli.advice import advice_text, cost_parts, saved_text
from costguard.cli.text import INDENT, Column, Screen, indented, labelled, table, width
from costguard.cli.words import (
    Document,
    an_hour,
    clock,
    decimal,
    duration,
    end_word,
    enforcer_word,
    led_by,
    listed,
    money,
    one_after_other,
    percent,
    phase_word,
    reason_word,
    stage_number,
    state_word,
    step_parts,
    steps,
    wish_word,
    with_aside,
)
from costguard.core.money import yuan_screen
from costguard.lang import _
from costguard.retell import retell

STATE_COLOURS = {
    "training": ("green",),
    "finished": ("green",),
    "pausing": ("yellow",),
    "paused": ("yellow",),
    "failed": ("red",),
}


def state_text(row: Document, screen: Screen) -> str:
    """The state with its reason, and the breach flag where it is set."""
    text, reason = state_word(row["state"]), row.get("pause_reason")
    if reason and reason != row["state"]:
        text = with_aside(text, reason_word(reason))
    text = screen.paint(text, *STATE_COLOURS.get(row["state"], ()))
    return f"{text}  {breach_text(screen)}" if row.get("breach") else text


def breach_text(screen: Screen) -> str:
    """What is said, loudly, of a job that has cost more than its cap."""
    return screen.paint(_("OVER THE CAP"), "red", "bold")


def status_lines(document: Document, screen: Screen) -> list[str]:
    """The status: one job in full, several as a table."""
    rows = document["jobs"]
    lines = [_daemon_line(document, screen)]
    if not rows:
        return [*lines, _("no jobs yet: costguard run JOB.toml")]
    if len(rows) == 1:
        return [*lines, "", *job_lines(rows[0], screen)]
    return [*lines, "", *_jobs_table(rows, screen)]


def job_lines(row: Document, screen: Screen) -> list[str]:
    """Everything that the status has about one job."""
    budget = row["budget"]
    lines = [f"{screen.paint(row['job'], 'bold')}  {state_text(row, screen)}"]
    lines += labelled(_("progress"), _place_parts(row) + step_parts(row), screen)
    sums = [
        _("spent {spent} of {cap}").format(
            spent=money(budget["spent_yuan"], screen), cap=money(budget["cap_yuan"], screen)
        ),
        f"{_('reserved')} {money(budget['reserved_yuan'], screen)}",
        f"{_('left')} {money(budget['left_yuan'], screen)}",
        f"{_('worst case')} {money(budget['worst_case_yuan'], screen)}",
    ]
    if row.get("forecast_yuan") is not None:
        sums.append(f"{_('forecast')} {money(row['forecast_yuan'], screen)}")
    if row.get("forecast_low_yuan") is not None:
        low, high = (money(row[f"forecast_{end}_yuan"], screen) for end in ("low", "high"))
        sums.append(_("between {low} and {high}").format(low=low, high=high))
        sums += _allowed_for(row)
    if row.get("bites_at_step") is not None:
        text = _("WILL NOT FIT: the budget ends near step {step}")
        sums.append(text.format(step=row["bites_at_step"]))
    lines += labelled(_("money"), sums, screen)
    lines += labelled(_("instance"), _instance_parts(row.get("instance"), screen), screen)
    lines += labelled(_("lease"), _lease_parts(row), screen)
    enforcers = list(row.get("enforcers") or ())
    if any(item.get("armed") for item in enforcers) or row.get("lease_expires_at"):
        lines += labelled(_("stopped by"), enforcer_texts(enforcers), screen)
    lines += labelled(_("telemetry"), _telemetry_parts(row.get("telemetry")), screen)
    return lines + labelled(_("checkpoint"), _checkpoint_parts(row.get("last_checkpoint")), screen)


def enforcer_texts(enforcers: Iterable[Document]) -> list[str]:
    """Each enforcer with what is known of it: armed or not, until when, proven or not."""
    texts = []
    for item in enforcers:
        facts = [_("armed") if item.get("armed") else _("NOT armed")]
        if item.get("until"):
            facts.append(_("until {time}").format(time=clock(item["until"])))
        if item.get("armed"):
            facts.append(_("proven") if item.get("proven") else _("not proven"))
        texts.append(with_aside(enforcer_word(str(item["kind"])), listed(facts)))
    return texts


def explain_lines(document: Document, screen: Screen) -> list[str]:
    """Why a job is where it is: verdicts with their evidence, the proof of the stop, what next."""
    from costguard.cli.watching import lead_up_lines

    lines = [f"{screen.paint(document['job'], 'bold')}  {state_text(document, screen)}"]
    for verdict in document["verdicts"]:
        head = f"{clock(verdict['at'])}  {reason_word(verdict['guard'])}"
        lines += ["", screen.paint(head, "bold"), *indented(retell(verdict["text"]), screen)]
        for key, value in (verdict.get("evidence") or {}).items():
            for text in _evidence_lines(key, value, screen):
                lines += indented(text, screen, deeper=True)
    if not document["verdicts"]:
        lines += ["", _("no guard has given a verdict")]
    lines += [*lead_up_lines(document.get("lead_up"), screen), ""]
    lines += _stop_lines(document["stop"], screen)
    for item in document.get("saved") or ():
        lines += labelled(_("saved"), [saved_text(item)], screen)
    if document.get("cost"):
        lines += labelled(_("cost"), cost_parts(document["cost"], screen), screen)
    for item in document.get("advice") or ():
        lines += labelled(_("advice"), [advice_text(item)], screen)
    for text in document["next"]:
        lines += labelled(_("next"), [retell(text)], screen)
    return lines


def budget_lines(document: Document, screen: Screen) -> list[str]:
    """Every cap, with what is spent, reserved and left under it."""
    columns = [
        Column(_("SCOPE")),
        Column(_("NAME"), elastic=True),
        Column(_("CAP"), right=True),
        Column(_("SPENT"), right=True),
        Column(_("RESERVED"), right=True),
        Column(_("LEFT"), right=True),
    ]
    scopes = {"job": _("job"), "project": _("project"), "month": _("month")}
    sums = ("cap_yuan", "spent_yuan", "reserved_yuan", "left_yuan")
    rows = [
        [
            scopes.get(item["scope"], item["scope"]),
            item["name"],
            *[money(item.get(key), screen) for key in sums],
        ]
        for item in document["budgets"]
    ]
    return table(columns, rows, screen) if rows else [_("no caps are set")]


def _place_parts(row: Document) -> list[str]:
    phase = phase_word(str(row["phase"])) if row.get("phase") else None
    stage = None if row.get("stage") is None else stage_number(row["stage"])
    pairs = ((_("stage"), stage), (_("phase"), phase))
    return [f"{label} {value}" for label, value in pairs if value is not None]


def _allowed_for(row: Document) -> list[str]:
    """Why the range is so wide, while no evaluation was seen."""
    texts = {
        "size": _("no evaluation seen yet: it allows for them by their samples"),
        "times": _("wide, for no evaluation was seen yet and their size is not known"),
        "nothing": _("wide, for whether evaluations come is not known"),
    }
    text = texts.get(str(row.get("evaluations_known")))
    return [] if text is None else [text]


def _daemon_line(document: Document, screen: Screen) -> str:
    daemon = document["daemon"]
    if daemon["running"]:
        left = _("daemon running (pid {pid})").format(pid=daemon["pid"])
    else:
        left = _("the daemon is not running: nothing is watched or renewed")
    right = clock(document["as_of"])
    gap = " " * max(screen.columns - width(left) - width(right), 2)
    style = "dim" if daemon["running"] else "yellow"
    return screen.paint(f"{left}{gap}{right}", style)


def _jobs_table(rows: Iterable[Document], screen: Screen) -> list[str]:
    columns = [
        Column(_("JOB"), elastic=True),
        Column(_("STATE"), elastic=True),
        Column(_("STEP"), right=True),
        Column(_("LOSS"), right=True, optional=True),
        Column(_("ETA"), right=True),
        Column(_("SPENT"), right=True),
        Column(_("CAP"), right=True),
        Column(_("LEFT"), right=True),
    ]
    plain = Screen(screen.columns, colour=False, encoding=screen.encoding)
    cells = [
        [
            row["job"],
            state_text({**row, "breach": False}, plain),
            steps(row),
            decimal(row.get("loss"), 3),
            duration(row.get("eta_s")),
            money(row["budget"]["spent_yuan"], screen),
            money(row["budget"]["cap_yuan"], screen),
            money(row["budget"]["left_yuan"], screen),
        ]
        for row in rows
    ]
    broken = [led_by(row["job"], breach_text(screen)) for row in rows if row.get("breach")]
    return [*table(columns, cells, screen), *broken]


def _instance_parts(instance: Document | None, screen: Screen) -> list[str]:
    if not instance:
        return []
    parts = [
        _("{id} on {provider}").format(id=instance["id"] or "?", provider=instance["provider"]),
        instance.get("gpu") or "-",
        state_word(str(instance["power"])),
        an_hour(money(instance.get("price_yuan_per_hour"), screen)),
    ]
    if instance.get("paid_until"):
        parts.append(_("paid until {time}").format(time=clock(instance["paid_until"])))
    return parts


def _lease_parts(row: Document) -> list[str]:
    expires = row.get("lease_expires_at")
    return [_("until {time}").format(time=clock(expires))] if expires else []


def _telemetry_parts(telemetry: Document | None) -> list[str]:
    if not telemetry or telemetry.get("age_s") is None:
        return []
    parts = [_("{age} ago").format(age=duration(telemetry["age_s"]))]
    for label, key in (("GPU", "gpu_util_percent"), (_("GPU memory"), "gpu_memory_percent")):
        if telemetry.get(key) is not None:
            parts.append(f"{label} {percent(decimal(telemetry[key], 0))}")
    return parts


def _checkpoint_parts(checkpoint: Document | None) -> list[str]:
    if not checkpoint:
        return []
    return [
        f"{_('step')} {checkpoint['step']}",
        _("complete") if checkpoint["complete"] else _("NOT complete"),
        _("{age} ago").format(age=duration(checkpoint.get("age_s"))),
    ]


def _stop_lines(stop: Document, screen: Screen) -> list[str]:
    seen = [_("seen stopped at {time}").format(time=clock(time)) for time in stop["seen"]]
    if stop["confirmed_at"]:
        proof = _("the meter has stopped: confirmed at {time}").format(
            time=clock(stop["confirmed_at"])
        )
        return labelled(_("stop"), [*seen, screen.paint(proof, "green")], screen)
    if stop.get("attested_at"):
        word = _("a person attested the stop at {time}: not proven").format(
            time=clock(stop["attested_at"])
        )
        return labelled(_("stop"), [*seen, screen.paint(word, "yellow")], screen)
    not_yet = screen.paint(_("not confirmed"), "yellow")
    return labelled(_("stop"), [*seen, not_yet], screen)


def _evidence_lines(key: str, value: object, screen: Screen) -> list[str]:
    """One piece of evidence; a list of texts, such as the end of a log, with a line for each."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [led_by(retell(key), "").rstrip(), *[INDENT + retell(item) for item in value]]
    return [_evidence(key, value, screen)]


def _evidence(key: str, value: object, screen: Screen) -> str:
    """One piece of evidence as `name value`, amounts as yuan and milliseconds as time."""
    for ending, shown in (
        ("_micros_per_hour", lambda amount: an_hour(yuan_screen(amount, screen.yuan))),
        ("_micros", lambda amount: yuan_screen(amount, screen.yuan)),
        ("_ms", lambda ms: duration(Decimal(ms) / 1000)),
        ("_s", duration),
    ):
        if key.endswith(ending) and isinstance(value, int):
            return f"{retell(key.removesuffix(ending))} {shown(value)}"
    if isinstance(value, str):
        value = {"class": end_word, "phase": phase_word, "wish": wish_word}.get(key, str)(value)
    elif isinstance(value, bool):
        value = _("true") if value else _("false")
    key = retell(key)
    if isinstance(value, Mapping):
        inner = listed(_evidence(name, item, screen) for name, item in value.items())
        return led_by(key, inner)
    if isinstance(value, list):
        mark = led_by("", "")
        return led_by(
            key, one_after_other(_evidence("", item, screen).strip(mark) for item in value)
        )
    return f"{key} {'-' if value is None else value}"
