"""Words and figures of the documents as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from costguard.core.money import MICROS_PER_YUAN, yuan_screen
from costguard.lang import _

if TYPE_CHECKING:
    from costguard.cli.text import Screen

Document = Mapping[str, Any]

S_PER_MIN, S_PER_HOUR, S_PER_DAY = 60, 3_600, 86_400
SMALLEST_SHOWN_MICROS = 50  # less would come out as 0.0000, and a minus before it as a riddle


def led_by(head: str, text: str) -> str:
    """`head: text`, with the colon of the language."""
    return _("{head}: {text}").format(head=head, text=text)


def with_aside(text: str, aside: str) -> str:
    """`text (aside)`, with the brackets of the language."""
    return _("{text} ({aside})").format(text=text, aside=aside)


def percent(number: str) -> str:
    """`80 %`, or 80% as Chinese has it."""
    return _("{number} %").format(number=number)


def an_hour(price: str) -> str:
    """`price/h`."""
    return _("{price}/h").format(price=price)


def listed(items: Iterable[str]) -> str:
    """`a, b, c`, with the comma of the language."""
    return _(", ").join(items)


def one_after_other(texts: Iterable[str]) -> str:
    """`a; b; c`, with the mark of the language."""
    return _("; ").join(texts)


def state_word(state: str) -> str:
    """A job state or an instance's power state as a person reads it."""
    return {
        "queued": _("queued"),
        "waiting_capacity": _("waiting for GPU"),
        "provisioning": _("starting the instance"),
        "preparing": _("preparing"),
        "training": _("training"),
        "saving": _("saving"),
        "pausing": _("pausing"),
        "paused": _("paused"),
        "finished": _("finished"),
        "failed": _("failed"),
        "released": _("released"),
        "starting": _("starting"),
        "running": _("running"),
        "stopping": _("stopping"),
        "stopped": _("stopped"),
        "off_billing": _("off, still charged"),
        "unknown": _("unknown"),
    }.get(state, state)


def reason_word(reason: str) -> str:
    """A pause reason or a guard as a person reads it."""
    return {
        "finished": _("finished"),
        "budget": _("budget"),
        "stalled": _("stalled"),
        "idle": _("idle"),
        "blind": _("blind"),
        "failed": _("failed"),
        "diverged": _("diverged"),
        "max_hours": _("max_hours"),
        "gate": _("gate"),
        "user": _("by hand"),
        "platform": _("platform"),
    }.get(reason, reason)


def phase_word(phase: str) -> str:
    """What is going on inside a stage, as a person reads it; phases of other trainers as is."""
    return {
        "setup": _("set-up"),
        "start": _("start"),
        "install": _("install"),
        "download": _("download"),
        "load": _("load"),
        "tokenise": _("tokenise"),
        "compile": _("compile"),
        "train": _("train"),
        "evaluate": _("evaluate"),
        "save": _("save"),
        "done": _("winding up"),
        "stopped": _("stopped on request"),
        "failed": _("failed"),
        "disk": _("disk"),
        "paused": _("paused"),
    }.get(phase, phase)


def end_word(kind: str) -> str:
    """What kind of end a training had (`core/exits.py`), as a person reads it."""
    return {
        "finished": _("finished"),
        "diverged": _("diverged"),
        "saved": _("saved"),
        "out_of_memory": _("out of memory"),
        "disk_full": _("disk full"),
        "data": _("the data set"),
        "environment": _("the environment"),
        "save": _("no checkpoint could be saved"),
        "crash": _("crash"),
    }.get(kind, kind)


def wish_word(wish: str) -> str:
    """What a person asked for, as evidence has it."""
    return {"pause": _("pause"), "release": _("release")}.get(wish, wish)


def enforcer_word(kind: str) -> str:
    """Who stops the machine at a lease's end, as a person reads it."""
    return {
        "daemon": _("daemon"),
        "platform_timer": _("platform timer"),
        "timer": _("platform timer"),
        "agent": _("agent"),
        "in_guest": _("agent, power-off from inside"),
    }.get(kind, kind)


def micros(yuan: object) -> int:
    """A document's `_yuan` string in micro-yuan; it may be negative."""
    return int(Decimal(str(yuan)) * MICROS_PER_YUAN)


def money(yuan: object, screen: Screen) -> str:
    """A document's `_yuan` string to the fen, `-` where there is none."""
    if yuan is None:
        return "-"
    amount = micros(yuan)
    return yuan_screen(amount if abs(amount) >= SMALLEST_SHOWN_MICROS else 0, screen.yuan)


def clock(utc: object) -> str:
    """A document's time in this machine's zone: the time of day, with the date if not today's."""
    if not utc:
        return "-"
    local = datetime.fromisoformat(str(utc).replace("Z", "+00:00")).astimezone()
    today = datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M:%S")


def duration(seconds: object) -> str:
    """Seconds as `45 s`, `3 min 20 s`, `2 h 05 min` or `3 d 04 h`: the two largest units."""
    if seconds is None:
        return "-"
    whole = max(int(Decimal(str(seconds))), 0)
    for size, below, text in (
        (S_PER_DAY, S_PER_HOUR, _("{large} d {small} h")),
        (S_PER_HOUR, S_PER_MIN, _("{large} h {small} min")),
        (S_PER_MIN, 1, _("{large} min {small} s")),
    ):
        if whole >= size:
            return text.format(large=whole // size, small=f"{whole % size // below:02d}")
    return _("{seconds} s").format(seconds=whole)


def duration_of_hours(hours: object) -> str:
    """A document's decimal hours as a duration; six decimals name a second, rounded back to it."""
    return "-" if hours is None else duration(round(Decimal(str(hours)) * S_PER_HOUR))


def stage_number(stage: object) -> str:
    """A document's stage, which counts from 0, as a person counts: from 1."""
    return "-" if stage is None else str(int(str(stage)) + 1)


def decimal(value: object, digits: int) -> str:
    """A number of a document with that many decimals, `-` where there is none."""
    return "-" if value is None else f"{Decimal(str(value)):.{digits}f}"


def steps(row: Document) -> str:
    """`120/375`, or `-` before the first step is known."""
    if row.get("step") is None:
        return "-"
    return f"{row['step']}/{row.get('total_steps') or '?'}"


def step_parts(row: Document) -> list[str]:
    """Step, loss and time to go, as far as the status row has them."""
    parts = []
    if row.get("step") is not None:
        parts.append(f"{_('step')} {steps(row)}")
    if row.get("loss") is not None:
        parts.append(f"{_('loss')} {decimal(row['loss'], 4)}")
    if row.get("eta_s") is not None:
        parts.append(f"{_('ETA')} {duration(row['eta_s'])}")
    return parts
