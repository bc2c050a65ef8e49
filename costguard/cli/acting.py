"""The commands that change something that runs: pause, release, budget set, the daemon itself."""

from __future__ import annotations

import sys
from typing import Any

from costguard import paths
from costguard.cli import launch
from costguard.cli.client import ask_daemon
from costguard.cli.reading import print_json
from costguard.core.money import MoneyError, parse_yuan, yuan_text
from costguard.errors import EXIT_INTERNAL, EXIT_USAGE, UserError
from costguard.lang import _
from costguard.retell import retell

PAUSE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 3_600.0


def note(text: str) -> None:
    """A message for a person: stderr, so that stdout is the document's alone."""
    print(text, file=sys.stderr, flush=True)


def pause(job: str | None, *, everything: bool) -> int:
    """Ask for a pause. It is under way when this returns, not yet proven."""
    if (job is None) != everything:
        what = _("name one job, or --all")
        raise UserError("usage", what, "pause", "costguard pause JOB", EXIT_USAGE)
    ask_daemon("pause", {"all": True} if everything else {"job": job}, PAUSE_TIMEOUT_S)
    note(_("asked to pause; the disk is kept and goes on costing its storage price"))
    note(_("it is stopped once `costguard status` says paused: see costguard explain JOB"))
    return 0


def release(job: str, typed_name: str | None) -> int:
    """Give the job's instance and disk back, after its name was typed out."""
    if typed_name is None:
        typed_name = _ask_for_name(job)
    if typed_name != job:
        raise UserError(
            "not_confirmed",
            _("that is not the job's name: nothing was released"),
            repr(typed_name),
            _("type it out exactly: {job}").format(job=job),
            EXIT_USAGE,
        )
    answer = ask_daemon("release", {"job": job}, PAUSE_TIMEOUT_S)
    if answer.get("left"):
        note(retell(str(answer["left"])))
        return 0
    note(_("asked to release {job}; it is gone once `costguard status` says so").format(job=job))
    return 0


def set_budget(job: str | None, project: str | None, month: str | None, yuan: str) -> int:
    """Change one cap."""
    given = [
        (scope, name)
        for scope, name in (("job", job), ("project", project), ("month", month))
        if name is not None
    ]
    if len(given) != 1:
        what = _("name one of --job, --project, --month")
        raise UserError("usage", what, "budget set", "costguard budget set --job J 80", EXIT_USAGE)
    scope, name = given[0]
    try:
        micros = parse_yuan(yuan)
    except MoneyError as error:
        hint = _("give a sum in yuan, such as 80")
        raise UserError("bad_budget", str(error), "budget set", hint, EXIT_USAGE) from None
    ask_daemon("budget_set", {"scope": scope, "name": name, "yuan": yuan_text(micros)})
    note(_("the cap of {name} is now {yuan} yuan").format(name=name, yuan=yuan_text(micros)))
    return 0


def start_daemon() -> int:
    """Have the daemon running in the background."""
    started = launch.ensure_daemon()
    text = _("started: pid {pid}") if started else _("it runs already: pid {pid}")
    note(text.format(pid=launch.daemon_pid()))
    return 0


def stop_daemon(*, leave: bool) -> int:
    """End the daemon: pause everything first and wait for the proof, or leave all as it is."""
    if launch.daemon_pid() is None:
        note(_("no daemon runs for this home"))
        return 0
    if not leave:
        note(_("pausing everything, then waiting until the stops are seen; Ctrl-C stops waiting"))
    launch.stop_daemon("leave" if leave else "pause", STOP_TIMEOUT_S)
    note(_("the daemon has ended"))
    return 0


def show_daemon(*, as_json: bool) -> int:
    """Whether the daemon runs: exit code 0 if it does, 1 if not."""
    try:
        answer: dict[str, Any] | None = ask_daemon("ping")
    except UserError as error:
        if error.code != "no_daemon":
            raise
        answer = None
    running = answer is not None
    if as_json:
        document = {"schema": "costguard.daemon/1", "running": running, "home": str(paths.home())}
        print_json({**document, "pid": None, "version": None, **(answer or {})})
    elif answer is not None:
        print(_("running: pid {pid}, version {version}").format(**answer))
    else:
        print(_("not running"))
    return 0 if running else EXIT_INTERNAL


def _ask_for_name(job: str) -> str:
    hint = f"costguard release {job} --yes-name {job}"
    if not sys.stdin.isatty():
        what = _("releasing deletes the disk, and asks for the job's name typed out")
        raise UserError(
            "not_confirmed", what, _("there is no terminal to ask on"), hint, EXIT_USAGE
        )
    note(
        _("This deletes the disk of {job} for good, with all that was not brought home.").format(
            job=job
        )
    )
    print(_("Type the job's name to go on: "), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
