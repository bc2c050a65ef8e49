"""`run` and `submit`: hand a job to the daemon, and follow it."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Any

from costguard.cli.acting import note
from costguard.cli.client import ask, ask_daemon
from costguard.cli.launch import ensure_daemon, stop_daemon
from costguard.cli.reading import print_json
from costguard.cli.render import enforcer_texts
from costguard.cli.text import print_lines, screen_of, wrap
from costguard.cli.words import led_by, money, one_after_other
from costguard.core.money import yuan_text
from costguard.errors import EXIT_REFUSED, UserError
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from pathlib import Path

    from costguard.cli.follow import Final
    from costguard.core.spec import JobSpec

SUBMIT_TIMEOUT_S = 120.0
EXIT_DETACHED = 130


def run(
    path: Path, budget: str | None, *, best_effort: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Submit and follow to the end; the exit code says how it went."""
    spec = _load(path, budget, best_effort=best_effort)
    if dry_run:
        return _show_plan(spec, as_json=as_json)
    job = _submit(spec, yes=yes)["job"]
    return run_to_the_end(job, as_json=as_json)


def run_to_the_end(job: str, *, as_json: bool) -> int:
    """Follow the job until it has ended; Ctrl-C detaches. The exit code says how it went."""
    try:
        final = _follow(job, as_json=as_json)
        if as_json:
            print_json(ask("status", {"job": job}))
        else:
            _conclude(final)
    except KeyboardInterrupt:
        return _detach(job)
    return final.exit_code


def submit(
    path: Path, budget: str | None, *, best_effort: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Hand the job over and return."""
    spec = _load(path, budget, best_effort=best_effort)
    if dry_run:
        return _show_plan(spec, as_json=as_json)
    answer = _submit(spec, yes=yes)
    if as_json:
        print_json({"schema": "costguard.submit/1", **answer})
    else:
        note(_("look at it: costguard status {job}").format(job=answer["job"]))
    return 0


def _load(path: Path, budget: str | None, *, best_effort: bool) -> JobSpec:
    """The job, checked: the home first, since nothing can be submitted without one."""
    from costguard import paths
    from costguard.jobfile import load_job
    from costguard.settings import load_settings

    paths.ensure_home()
    load_settings()
    note(_("checking {path} and its data set").format(path=path))
    return load_job(path, budget, best_effort=best_effort)


def _submit(spec: JobSpec, *, yes: bool) -> dict[str, Any]:
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        _confirm(spec)
    if ensure_daemon():
        note(_("started the daemon in the background; `costguard daemon stop` ends it"))
    args = {"spec": spec.to_json(), "key": str(uuid.uuid4()), "work": _work(spec)}
    answer: dict[str, Any] = ask_daemon("submit", args, SUBMIT_TIMEOUT_S)
    tell_bound(answer, spec)
    return answer


def _work(spec: JobSpec) -> list[dict[str, Any]]:
    """What the job has to compute, for the forecast of the plan; [] where nobody knows."""
    from costguard.cli.works import read_works
    from costguard.daemon.foretell import works_to_json

    reading = read_works(spec)
    return [] if reading is None else works_to_json(reading.works)


def _confirm(spec: JobSpec) -> None:
    screen = screen_of(sys.stderr)
    text = _("{job} may spend up to {cap} on {provider}. Go on? [y/N] ").format(
        job=spec.name,
        cap=money(yuan_text(spec.cap_micros), screen),
        provider=spec.instance.provider,
    )
    print(text, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes", "是"}:
        what = _("not confirmed: nothing was rented")
        raise UserError("not_confirmed", what, spec.name, "--yes", EXIT_REFUSED)


def _show_plan(spec: JobSpec, *, as_json: bool) -> int:
    """What would happen, as the daemon reckons it; nothing is rented and no daemon left behind."""
    started = ensure_daemon()
    try:
        answer = ask_daemon(
            "quote", {"spec": spec.to_json(), "work": _work(spec)}, SUBMIT_TIMEOUT_S
        )
    finally:
        if started:
            stop_daemon("leave", SUBMIT_TIMEOUT_S)
    if as_json:
        print_json({"schema": "costguard.quote/1", **answer})
        return 0
    tell_bound(answer, spec)
    note(_("dry run: nothing was rented"))
    return 0


def tell_bound(answer: dict[str, Any], spec: JobSpec | None = None) -> None:
    """The cap, the most it can cost, and who enforces that."""
    screen = screen_of(sys.stderr)
    worst = answer.get("worst_case_yuan")
    cap = money(worst if spec is None else yuan_text(spec.cap_micros), screen)
    lines = [
        _("job {job}: cap {cap}, worst case {worst}").format(
            job=answer["job"], cap=cap, worst=money(worst, screen)
        )
    ]
    if answer.get("price_yuan_per_hour") is not None:
        price = money(answer["price_yuan_per_hour"], screen)
        lines.append(_("price {price} an hour").format(price=price))
    enforcers = answer.get("enforcers") or []
    texts = enforcer_texts(item for item in enforcers if isinstance(item, dict))
    texts += [retell(item) for item in enforcers if isinstance(item, str)]
    lines.append(_("stopped by: {enforcers}").format(enforcers=one_after_other(texts) or "-"))
    lines += [retell(line) for line in answer.get("lines") or []]
    print_lines([piece for line in lines for piece in wrap(line, screen.columns)], sys.stderr)


def _follow(job: str, *, as_json: bool) -> Final:
    from rich.console import Console

    from costguard.cli.follow import follow

    return follow(job, ask=ask, console=Console(stderr=as_json, highlight=False))


def _conclude(final: Final) -> None:
    from costguard.cli.follow import conclusion

    print_lines(["", *conclusion(final, ask, screen_of(sys.stdout))])
    if not final.stop_confirmed:
        note(_("!!! the stop is NOT confirmed: look at the platform's own console now"))
    elif not final.ended:
        note(_("!!! the daemon is gone and the job had not ended: costguard daemon start"))


def _detach(job: str) -> int:
    """Ctrl-C: say how to look, pause and stop; 9 instead of 130 while a stop is not confirmed."""
    from costguard.cli.follow import EXIT_STOP_NOT_CONFIRMED, stop_is_overdue

    note("")
    note(_("detached: {job} goes on without this window").format(job=job))
    for text, command in (
        (_("look"), f"costguard status {job}"),
        (_("pause it"), f"costguard pause {job}"),
        (_("pause all and end the daemon"), "costguard daemon stop"),
    ):
        note("  " + led_by(text, command))
    if stop_is_overdue(job, ask):
        note(_("!!! the stop is NOT confirmed: look at the platform's own console now"))
        return EXIT_STOP_NOT_CONFIRMED
    return EXIT_DETACHED
