"""The words of each notice. `_` is the translator of the channel's language, not the process's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.core.money import yuan_screen
from costguard.lang import translations
from costguard.retell import retell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Translate = Callable[[str], str]


def translator(language: str) -> Translate:
    """English as it stands, or each text in that language."""
    return translations(language).gettext


def line(kind: str, facts: Mapping[str, Any], _: Translate, language: str = "en") -> str:
    """One notice as a line, or a few for the morning's summary; the daemon's words retold."""
    if kind == "morning":
        head = _("The night up to {date}:").format(date=facts["date"])
        return "\n".join([head, *(_summary(job, _) for job in facts["jobs"])])
    blanks = {
        "job": facts.get("job") or "-",
        "reason": _reason(str(facts.get("reason")), _),
        "why": retell(facts.get("why") or "", language),
        "spent": yuan_screen(facts.get("spent_micros") or 0),
        "cap": yuan_screen(facts.get("cap_micros") or 0),
        "said": retell(facts.get("said") or "", language),
        "provider": facts.get("provider") or "-",
        "hours": facts.get("hours") or "?",
    }
    if kind == "ended":
        kind = str(facts["state"])
    of_money = _about_money(_)
    if kind not in of_money:
        return _about_trouble(_)[kind].format(**blanks)
    what, spent = of_money[kind].format(**blanks), _("spent {spent} of {cap}").format(**blanks)
    return _("{what}; {spent}").format(what=what, spent=spent)


def _about_money(_: Translate) -> Mapping[str, str]:
    """Notices that say what was spent as well."""
    return {
        "paused": _("{job} is paused: {reason} ({why}); the disk goes on costing until `release`"),
        "finished": _("{job} has finished, and its instance is seen stopped"),
        "failed": _("{job} has failed: {why}"),
        "released": _("{job}: its instance was given back, and its disk deleted"),
        "started": _("{job} has begun to train"),
        "stage_done": _("{job} has done a stage: {said}"),
        "cap_50": _("{job} has used half of its cap"),
        "cap_80": _("{job} has used 80 % of its cap"),
        "cap_95": _("{job} HAS USED 95 % OF ITS CAP"),
        "will_not_fit": _("{job} will not fit its cap: {said}"),
        "breach": _("{job} IS PAST A CAP and is being stopped: {said}"),
        "overrun": _("{job} COSTS MORE THAN WAS RESERVED: {said}"),
        "blind": _("{job}: the line to its instance is lost; it is paused through the platform"),
    }


def _about_trouble(_: Translate) -> Mapping[str, str]:
    """Notices that say what is wrong, and nothing else."""
    return {
        "stop_not_confirmed": _(
            "{job}: STOP NOT CONFIRMED, IT MAY STILL COST MONEY: look at the platform's console now"
        ),
        "running_without_lease": _("{job}: ITS INSTANCE RUNS AND SHOULD BE OFF; it is stopped"),
        "orphan": _("AN INSTANCE OF OURS THAT NO JOB DRIVES COSTS MONEY: {said}"),
        "price_changed": _("{job}: the price has changed: {said}"),
        "drift": _("{job}: the platform's bill and the books differ: {said}"),
        "disk_kept": _("{job}: {said}"),
        "reuse_ended": _("{job}: {said}"),
        "assumed_run": _("{job}: {said}; compare it with the platform's bill"),
        "low_balance": _(
            "THE WALLET AT {provider} PAYS {hours} MORE HOURS, "
            "then the platform stops all: top it up"
        ),
        "release_clock": _("{job}: the platform deletes its disk soon: {said}"),
        "attestation_contradicted": _("{job}: IT WAS NOT STOPPED AS ATTESTED: {said}"),
        "ledger_head": _("THE LEDGER'S END IS NOT WHAT IT WAS: run costguard ledger verify"),
        "test": _("a test: messages reach this channel"),
    }


def title(kinds: list[str], urgent: bool, _: Translate) -> str:  # noqa: FBT001  (one caller)
    """The message's heading."""
    if urgent:
        return _("costguard: MONEY IS RUNNING")
    if kinds == ["morning"]:
        return _("costguard: good morning")
    if len(kinds) > 1:
        return _("costguard: {count} notices").format(count=len(kinds))
    return "costguard"


def more(count: int, _: Translate) -> str:
    """What is said where not all notices had room."""
    return _("({count} more in the next message)").format(count=count)


def _summary(job: Mapping[str, Any], _: Translate) -> str:
    words = _("- {job}: {state}, spent {spent} of {cap}").format(
        job=job["job"],
        state=_state(str(job["state"]), _),
        spent=yuan_screen(job["spent_micros"]),
        cap=yuan_screen(job["cap_micros"]),
    )
    if job["state"] == "paused" and job["reason"] not in (None, "finished"):
        decide = _("waits for your decision ({reason})")
        reason = decide.format(reason=_reason(str(job["reason"]), _))
        words = _("{what}; {more}").format(what=words, more=reason)
    return words


def _state(state: str, _: Translate) -> str:
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
    }.get(state, state)


def _reason(reason: str, _: Translate) -> str:
    return {
        "budget": _("budget"),
        "stalled": _("stalled"),
        "idle": _("idle"),
        "blind": _("blind"),
        "diverged": _("diverged"),
        "max_hours": _("max_hours"),
        "gate": _("gate"),
        "user": _("by hand"),
        "platform": _("platform"),
        "finished": _("finished"),
        "failed": _("failed"),
    }.get(reason, reason)
