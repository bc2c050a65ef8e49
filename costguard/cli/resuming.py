"""`resume`: have a paused job go on, as it was or on changed data."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.cli.acting import note
from costguard.cli.client import ask, ask_daemon
from costguard.cli.launch import ensure_daemon
from costguard.cli.running import SUBMIT_TIMEOUT_S, run_to_the_end, tell_bound
from costguard.errors import EXIT_REFUSED, EXIT_USAGE, UserError
from costguard.lang import _

if TYPE_CHECKING:
    from costguard.core.spec import JobSpec

STARTS = ("base", "checkpoint")


def resume(
    job: str,
    data: Path | None,
    start: str | None,
    *,
    anew: bool,
    yes: bool,
    follow: bool,
    as_json: bool,
) -> int:
    """Have `job` go on; with `data` or from the base model, as its job file now says.

    `anew`: on a new instance, whose price is said and asked about first unless `yes`.
    """
    if start is not None and start not in STARTS:
        what = _("--from is base or checkpoint, not {value}").format(value=repr(start))
        raise UserError("usage", what, "resume --from", "costguard resume JOB", EXIT_USAGE)
    if ensure_daemon():
        note(_("started the daemon in the background; `costguard daemon stop` ends it"))
    args: dict[str, Any] = {"job": job}
    if data is not None or start == "base":
        spec = _changed(ask("source", {"job": job}), data, start or "base")
        args["spec"] = spec.to_json()
    if anew:
        args["new_instance"] = True
        quote = ask_daemon("resume", {**args, "quote": True}, SUBMIT_TIMEOUT_S)
        tell_bound(quote)
        _tell_anew(job, quote)
        if not yes:
            _confirm(job)
    answer = ask_daemon("resume", args, SUBMIT_TIMEOUT_S)
    if not anew:
        tell_bound(answer)
    elif answer.get("disk"):
        text = _("the old disk is {disk} from now on, until: costguard release {disk}")
        note(text.format(disk=answer["disk"]))
    if not follow:
        note(_("look at it: costguard status {job}").format(job=job))
        return 0
    return run_to_the_end(job, as_json=as_json)


def _tell_anew(job: str, quote: dict[str, Any]) -> None:
    """From where it goes on, and that the old disk stays and costs."""
    if quote.get("from"):
        note(_("it goes on from {name}, which is at home").format(name=quote["from"]))
    else:
        note(_("it begins anew: no whole checkpoint of it is at home"))
    if quote.get("old_disk"):
        text = _("the disk of {instance} is kept, and costs, until you release it")
        note(text.format(instance=quote["old_disk"]))
    note(_("nothing new is made while there is no card: {job} then waits for one").format(job=job))


def _confirm(job: str) -> None:
    hint = _("--yes rents it without asking")
    if not sys.stdin.isatty():
        what = _("nothing was rented: there is no terminal to ask on")
        raise UserError("not_confirmed", what, job, hint, EXIT_REFUSED)
    text = _("Rent a new instance for {job}? [y/N] ").format(job=job)
    print(text, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes", "是"}:
        what = _("not confirmed: nothing was rented")
        raise UserError("not_confirmed", what, job, hint, EXIT_REFUSED)


def pull(job: str, *, follow: bool, as_json: bool) -> int:
    """Fetch what is still on the instance's disk: switched on under a lease, and off again."""
    if ensure_daemon():
        note(_("started the daemon in the background; `costguard daemon stop` ends it"))
    answer = ask_daemon("pull", {"job": job}, SUBMIT_TIMEOUT_S)
    tell_bound(answer)
    names = ", ".join(answer.get("missing") or ()) or _("whatever its disk holds")
    note(_("to be fetched: {names}").format(names=names))
    return run_to_the_end(job, as_json=as_json) if follow else 0


def _changed(source: dict[str, Any], data: Path | None, start: str) -> JobSpec:
    """The job as its file says today, on `data` if given, in an output folder of its own."""
    from costguard.jobfile import load_job

    path = Path(source["file"])
    if not path.is_file():
        what = _("the job file is no longer where it was: {path}").format(path=path)
        hint = _("put it back, or resume without --data and --from")
        raise UserError("no_job_file", what, str(path), hint)
    note(_("checking {path} and its data set").format(path=path))
    spec = load_job(path, dataset=data, output_suffix=f"-{source['attempt'] + 2}")
    _tell_difference([Path(old) for old in source["data"]], data)
    return _from_checkpoint(spec, source.get("checkpoint")) if start == "checkpoint" else spec


def _from_checkpoint(spec: JobSpec, at: str | None) -> JobSpec:
    """The job with what was learnt so far to begin with: the weights, on a schedule of its own."""
    run = spec.runs[0]
    hint = _("take --from base: what was learnt so far stays in the artifacts folder")
    if at is None or run.engine == "command":
        what = _("there is no checkpoint that other data could go on from")
        raise UserError("usage", what, "resume --from", hint, EXIT_USAGE)
    note(_("the new data begin with the weights of {checkpoint}").format(checkpoint=at[3:]))
    if run.engine == "llamafactory":
        begun = replace(run, config={**run.config, "adapter_name_or_path": at})
    else:
        begun = replace(run, argv=(*run.argv, "--init_adapter", at))
    return replace(spec, runs=(begun, *spec.runs[1:]))


def _tell_difference(old: list[Path], new: Path | None) -> None:
    """How many lines were added and removed, where the old data set is still there."""
    if new is None or not old or not old[0].is_file() or old[0].samefile(new):
        return
    before = old[0].read_text(encoding="utf-8", errors="replace").splitlines()
    after = new.read_text(encoding="utf-8", errors="replace").splitlines()
    known, kept = set(before), set(after)
    added = sum(line not in known for line in after)
    removed = sum(line not in kept for line in before)
    note(
        _("{new}: {added} lines are new against {old}, {removed} are gone, {count} in all").format(
            new=new, old=old[0], added=added, removed=removed, count=len(after)
        )
    )
