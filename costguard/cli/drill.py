"""`doctor --drill`: rent an instance, and see the platform's own timer stop it. It costs money.

1. the price is named and agreed to
2. the daemon rents it as a job with a cap and a lease, and holds still until that lease ends
3. here, in this process, the timer is armed and watched; the instance is started again and stopped
4. the daemon is told what was proven, and gives the instance back, whatever happened
"""

from __future__ import annotations

import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from costguard import paths
from costguard.cli.acting import note
from costguard.cli.client import ask_daemon
from costguard.cli.launch import ensure_daemon
from costguard.cli.market import finding_word
from costguard.cli.prompt import YES, tell
from costguard.cli.reading import print_json
from costguard.cli.text import indented, print_lines, screen_of
from costguard.cli.words import led_by, money
from costguard.errors import EXIT_REFUSED, EXIT_USAGE, UserError
from costguard.lang import _
from costguard.retell import retell
from costguard.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_NOT_PROVEN = 1
EXIT_STOP_NOT_CONFIRMED = 9
ASK_TIMEOUT_S = 120.0
LOOK_S = 0.5
RENT_WITHIN_S = 120.0
GIVE_BACK_WITHIN_S = 600.0
FINAL = ("paused", "finished", "failed", "released")


def run_drill(
    provider: str | None, gpu: str | None, image: str | None, *, yes: bool, as_json: bool
) -> int:
    """The drill from its price to the proof that nothing is left of it.

    0: the timer is proven; 1: it is not; 9: the instance is not seen given back.
    """
    if provider is None:
        what = _("name one account: a drill costs money")
        raise UserError("usage", what, "doctor --drill", "--provider NAME", EXIT_USAGE)
    from costguard.daemon.drills import look_before

    look_before(load_settings(paths.ensure_home()), provider)
    if ensure_daemon():
        note(_("started the daemon in the background; `costguard daemon stop` ends it"))
    wish = {"provider": provider, "gpu": gpu, "image": image}
    plan: dict[str, Any] = ask_daemon("drill_plan", wish, ASK_TIMEOUT_S)
    _agree(provider, plan, yes=yes)
    submission = {"spec": plan["spec"], "key": str(uuid.uuid4())}
    job = str(ask_daemon("submit", submission, ASK_TIMEOUT_S)["job"])
    shown: dict[str, Any] | None = None
    try:
        instance_id = _rented(job)
        if instance_id is not None:
            shown = _watched(provider, instance_id)
            ask_daemon("drilled", {"job": job, "shown": shown}, ASK_TIMEOUT_S)
    except KeyboardInterrupt:
        tell("\n" + _("the drill is broken off: the daemon stops the instance and gives it back"))
        raise
    finally:
        # Whatever happened: from here on the daemon stops it, proves it and gives it back.
        ask_daemon("release", {"job": job}, ASK_TIMEOUT_S)
    row = _given_back(job)
    if as_json:
        empty = {"schema": "costguard.drill/1", "provider": provider, "is_fine": False}
        told = shown or {**empty, "timer_is_proven": False, "findings": []}
        spent, is_gone = row["budget"]["spent_yuan"], row["state"] == "released"
        print_json({**told, "job": job, "spent_yuan": spent, "given_back": is_gone})
    return _conclude(provider, shown, row)


def _agree(provider: str, plan: Mapping[str, Any], *, yes: bool) -> None:
    """Name the price; UserError unless the person takes it."""
    screen = screen_of(sys.stderr)
    text = _(
        "a drill on {provider} rents {gpu} at {price} an hour (in steps of {step} s), switches it "
        "on twice for about {minutes} minutes, and gives it back: about {usual}, at most {most}"
    )
    tell(
        text.format(
            provider=provider,
            gpu=plan["gpu"],
            price=money(plan["price_yuan_per_hour"], screen),
            step=plan["quantum_s"],
            minutes=plan["usual_minutes"],
            usual=money(plan["usual_yuan"], screen),
            most=money(plan["most_yuan"], screen),
        )
    )
    if yes:
        return
    answer = ""
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(_("Go on? [y/N] "), end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip().lower()
    if answer not in YES:
        what = _("not confirmed: nothing was rented")
        raise UserError("not_confirmed", what, provider, "--yes", EXIT_REFUSED)


def _rented(job: str) -> str | None:
    """The instance once it is rented; None where it is not to be had now."""
    until = time.monotonic() + RENT_WITHIN_S
    while time.monotonic() < until:
        row = _row(job)
        if row["instance"] is not None and row["instance"]["id"] is not None:
            tell(_("rented: {id}").format(id=row["instance"]["id"]))
            return str(row["instance"]["id"])
        if row["state"] == "waiting_capacity" or row["state"] in FINAL:
            break
        time.sleep(LOOK_S)
    tell(_("nothing could be rented: costguard explain {job}").format(job=job))
    return None


def _watched(provider: str, instance_id: str) -> dict[str, Any]:
    from costguard.daemon.clock import SystemClock
    from costguard.daemon.drills import run_drill as watch

    def say(finding: Any) -> None:
        mark = _("ok") if finding.is_fine else _("NOT FIT")
        line = led_by(finding_word(finding.what), led_by(mark, retell(finding.text)))
        print_lines(indented(line, screen_of(sys.stderr)), sys.stderr)

    settings, clock = load_settings(), SystemClock()
    return watch(settings, provider, instance_id, clock.now, time.sleep, say)


def _given_back(job: str) -> dict[str, Any]:
    """The job's row once nothing is left of it, or as it is when that takes too long."""
    tell(_("giving it back"))
    until = time.monotonic() + GIVE_BACK_WITHIN_S
    row = _row(job)
    while row["state"] != "released" and time.monotonic() < until:
        time.sleep(LOOK_S)
        row = _row(job)
    return row


def _row(job: str) -> dict[str, Any]:
    row: dict[str, Any] = ask_daemon("status", {"job": job}, ASK_TIMEOUT_S)["jobs"][0]
    return row


def _conclude(provider: str, shown: Mapping[str, Any] | None, row: Mapping[str, Any]) -> int:
    spent = money(row["budget"]["spent_yuan"], screen_of(sys.stderr))
    tell(_("the drill cost {spent}: costguard explain {job}").format(spent=spent, job=row["job"]))
    if row["state"] != "released":
        text = _("!!! NOT seen given back: it may still cost money; see costguard status {job}")
        tell(text.format(job=row["job"]))
        return EXIT_STOP_NOT_CONFIRMED
    if shown is None or not shown["timer_is_proven"]:
        text = _("the stop timer of {provider} is NOT proven")
        tell(text.format(provider=provider))
        return EXIT_NOT_PROVEN
    text = _("proven: the stop timer of {provider} stops an instance by itself, {late} ms late")
    tell(text.format(provider=provider, late=shown["timer_late_ms"]))
    return 0 if shown["is_fine"] else EXIT_NOT_PROVEN
