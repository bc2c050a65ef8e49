"""The commands, as Typer has them: names, options and help. What they do is in the neighbours."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from costguard import __version__
from costguard.cli import books_app, init_app, market_app, reading, results_app
from costguard.cli.completing import job_names, one_of
from costguard.cli.help_text import help_in_words, printed_in_words
from costguard.errors import EXIT_USAGE, UserError
from costguard.lang import LANGUAGES, _, select

# Typer brings its own copy of Click, older ones use Click itself: reached through what both export.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

Job = Annotated[
    str, typer.Argument(help=_("the job's name"), metavar="JOB", autocompletion=job_names)
]
MaybeJob = Annotated[
    str | None, typer.Argument(help=_("the job's name"), metavar="JOB", autocompletion=job_names)
]
JobFile = Annotated[Path, typer.Argument(help=_("the job file"), metavar="JOB.toml")]
AsJson = Annotated[bool, typer.Option("--json", help=_("one JSON document on stdout"))]
Budget = Annotated[
    str | None, typer.Option("--budget", help=_("yuan; overrides the file"), metavar="YUAN")
]
BestEffort = Annotated[
    bool, typer.Option("--best-effort", help=_("accept a cap that cannot be enforced to the end"))
]
DryRun = Annotated[bool, typer.Option("--dry-run", help=_("say what would happen; rent nothing"))]
Yes = Annotated[bool, typer.Option("--yes", help=_("do not ask"))]

HELP = frozenset({"-h", "--help"})
_OPTIONS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}

app = typer.Typer(
    name="costguard",
    help=_("Set a yuan budget, go to bed: unattended QLoRA on rented GPUs, with a cap that holds."),
    context_settings={"help_option_names": sorted(HELP)},
    **_OPTIONS,
)
daemon = typer.Typer(help=_("the scheduler in the background"), **_OPTIONS)
budget = typer.Typer(help=_("caps"), **_OPTIONS)
data = typer.Typer(help=_("data sets"), **_OPTIONS)
app.add_typer(daemon, name="daemon")
app.add_typer(budget, name="budget")
app.add_typer(data, name="data")


def run_app(arguments: list[str]) -> int:
    """The exit code of a command line; usage mistakes become UserErrors like any other."""
    asked = HELP & set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    try:
        with printed_in_words() if asked else contextlib.nullcontext():
            code = app(arguments, prog_name="costguard", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except _ClickError as error:
        what, context = _described(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(help_in_words(what), file=sys.stderr)
            return EXIT_USAGE
        raise UserError("usage", what, context, f"{context} --help", EXIT_USAGE) from None
    return int(code or 0)


def _described(error: Any) -> tuple[str, str]:
    """Click's message for a usage mistake, and the command that it is about."""
    return error.format_message(), error.ctx.command_path if error.ctx else "costguard"


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (Typer's callback has this shape)
    if wanted:
        print(f"costguard {__version__}")
        raise typer.Exit


@app.callback()
def root(
    language: Annotated[
        str | None, typer.Option("--lang", help=" | ".join(LANGUAGES), metavar="LANG")
    ] = None,
    version: Annotated[  # noqa: ARG001, FBT002  (its callback does the work)
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help=_("the version")),
    ] = False,
) -> None:
    """Options of every command; `main` has taken `--lang` out already, wherever it stood."""
    if language is not None:
        select(language)


@app.command("demo", help=_("the whole loop on this machine, no account needed"))
def _demo(
    *,
    scenario: Annotated[
        str,
        typer.Option(
            help="finish | stall | idle | budget | crash",
            metavar="NAME",
            autocompletion=one_of("finish", "stall", "idle", "budget", "crash"),
        ),
    ] = "finish",
    as_json: AsJson = False,
    keep_home: Annotated[
        Path | None, typer.Option(help=_("keep the demo's home in this folder"), metavar="DIR")
    ] = None,
) -> int:
    from costguard.demo.main import run_demo

    return int(run_demo(scenario, as_json=as_json, keep_home=keep_home))


@app.command("run", help=_("submit a job and follow it; Ctrl-C detaches"))
def _run(
    job_file: JobFile,
    *,
    budget_yuan: Budget = None,
    best_effort: BestEffort = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import running

    return running.run(
        job_file,
        budget_yuan,
        best_effort=best_effort,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )


@app.command("submit", help=_("as run, without following"))
def _submit(
    job_file: JobFile,
    *,
    budget_yuan: Budget = None,
    best_effort: BestEffort = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import running

    return running.submit(
        job_file,
        budget_yuan,
        best_effort=best_effort,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )


@app.command("status", help=_("what is happening"))
def _status(job: MaybeJob = None, *, as_json: AsJson = False) -> int:
    return reading.show_status(job, as_json=as_json)


@app.command("watch", help=_("the status, live"))
def _watch(job: MaybeJob = None, *, as_json: AsJson = False) -> int:
    return reading.watch(job, as_json=as_json)


@app.command("report", help=_("spend to date"))
def _report(
    *,
    by: Annotated[
        str | None,
        typer.Option(
            help="job | stage | phase | gpu | day | platform",
            metavar="KEY",
            autocompletion=one_of("job", "stage", "phase", "gpu", "day", "platform"),
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help=_("CSV on stdout"))] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help=_("a page with charts"), metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> int:
    return reading.show_report(by, as_json=as_json, as_csv=as_csv, html=html)


@app.command("explain", help=_("why a job is where it is, with the evidence"))
def _explain(job: Job, *, as_json: AsJson = False) -> int:
    return reading.show_explain(job, as_json=as_json)


@app.command("logs", help=_("what the training printed"))
def _logs(
    job: Job,
    *,
    on_and_on: Annotated[bool, typer.Option("--follow", "-f", help=_("go on"))] = False,
    as_json: AsJson = False,
) -> int:
    return reading.show_logs(job, on_and_on=on_and_on, as_json=as_json)


@app.command("pause", help=_("save, stop the instance, keep its disk"))
def _pause(
    job: MaybeJob = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help=_("every job"))] = False,
) -> int:
    from costguard.cli import acting

    return acting.pause(job, everything=everything)


@app.command("resume", help=_("go on with a paused job, from its last checkpoint"))
def _resume(
    job: Job,
    *,
    data: Annotated[
        Path | None, typer.Option("--data", help=_("train on this data set"), metavar="FILE")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="base | checkpoint", metavar="WHERE")
    ] = None,
    new_instance: Annotated[
        bool, typer.Option("--new-instance", help=_("on a new one, from the checkpoint at home"))
    ] = False,
    yes: Yes = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help=_("stay and watch"))] = True,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import resuming

    return resuming.resume(
        job, data, start, anew=new_instance, yes=yes, follow=follow, as_json=as_json
    )


@app.command("pull", help=_("bring home what an ended job's disk still holds"))
def _pull(
    job: Job,
    *,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help=_("stay and watch"))] = True,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import resuming

    return resuming.pull(job, follow=follow, as_json=as_json)


@app.command("release", help=_("give the instance back; its disk is deleted"))
def _release(
    job: Job,
    *,
    yes_name: Annotated[
        str | None, typer.Option(help=_("the job's name again, for scripts"), metavar="NAME")
    ] = None,
) -> int:
    from costguard.cli import acting

    return acting.release(job, yes_name)


@budget.command("show", help=_("every cap, and what is left under it"))
def _budget_show(*, as_json: AsJson = False) -> int:
    return reading.show_budgets(as_json=as_json)


@budget.command("set", help=_("change one cap"))
def _budget_set(
    yuan: Annotated[str, typer.Argument(help=_("the new cap"), metavar="YUAN")],
    *,
    job: Annotated[
        str | None, typer.Option(help=_("of this job"), autocompletion=job_names)
    ] = None,
    project: Annotated[str | None, typer.Option(help=_("of this project"))] = None,
    month: Annotated[
        str | None, typer.Option(help=_("of this month, such as 2026-11"), metavar="MONTH")
    ] = None,
) -> int:
    from costguard.cli import acting

    return acting.set_budget(job, project, month, yuan)


@data.command("check", help=_("judge a data set before a yuan is spent"))
def _data_check(
    file: Annotated[Path, typer.Argument(help=_("the data set"), metavar="FILE")],
    *,
    as_json: AsJson = False,
) -> int:
    return reading.check_data(file, as_json=as_json)


@data.command("mask", help=_("a copy in which personal data is replaced, its samples usable"))
def _data_mask(
    file: Annotated[Path, typer.Argument(help=_("the data set"), metavar="FILE")],
    *,
    out: Annotated[
        Path | None, typer.Option(help=_("the new file; without it FILE.masked"), metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> int:
    return reading.mask_data(file, out, as_json=as_json)


@app.command("simulate", help=_("try budget and guards against a thousand bad nights"))
def _simulate(
    *,
    seeds: Annotated[int, typer.Option(help=_("how many worlds"), metavar="N")] = 100,
    first_seed: Annotated[int, typer.Option(help=_("the first one's seed"), metavar="K")] = 0,
    days: Annotated[float | None, typer.Option(help=_("simulated days each"), metavar="D")] = None,
    tier: Annotated[
        int, typer.Option(help=_("1: the pure core, 2: the whole daemon"), metavar="1|2")
    ] = 1,
    jobs: Annotated[int | None, typer.Option(help=_("processes"), metavar="N")] = None,
    as_json: AsJson = False,
) -> int:
    from costguard.cli.simulate import simulate

    return simulate(seeds, first_seed, days, tier, jobs, as_json=as_json)


@daemon.command("start", help=_("start it in the background"))
def _daemon_start() -> int:
    from costguard.cli import acting

    return acting.start_daemon()


@daemon.command("stop", help=_("pause everything, wait for the proof, end it"))
def _daemon_stop(
    *,
    leave: Annotated[
        bool, typer.Option("--leave", help=_("pause nothing: the other enforcers go on"))
    ] = False,
) -> int:
    from costguard.cli import acting

    return acting.stop_daemon(leave=leave)


@daemon.command("status", help=_("whether it runs"))
def _daemon_status(*, as_json: AsJson = False) -> int:
    from costguard.cli import acting

    return acting.show_daemon(as_json=as_json)


@daemon.command("run", help=_("run it here, in the foreground"))
def _daemon_run() -> int:
    from costguard.daemon.app import main as run_daemon

    return run_daemon()


books_app.register(app)
init_app.register(app)
market_app.register(app)
results_app.register(app)
