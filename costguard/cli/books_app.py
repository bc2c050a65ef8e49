"""The commands about the books, and about who is told what happens."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (Typer evaluates the annotations)
from typing import Annotated, Any

import typer

from costguard.cli.completing import job_names
from costguard.lang import _

AsJson = Annotated[bool, typer.Option("--json", help=_("one JSON document on stdout"))]

_OPTIONS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}

ledger = typer.Typer(help=_("the books"), **_OPTIONS)
notify = typer.Typer(help=_("who is told what happens"), **_OPTIONS)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(ledger, name="ledger")
    app.add_typer(notify, name="notify")
    app.command("backup", help=_("copy the database, while the daemon runs"))(_backup)
    app.command("restore", help=_("put a backup in the database's place; no daemon may run"))(
        _restore
    )
    app.command("confirm-stopped", help=_("attest a stop where no platform can prove it"))(
        _confirm_stopped
    )


@ledger.command("verify", help=_("whether the books still are what was written into them"))
def _verify(*, as_json: AsJson = False) -> int:
    from costguard.cli import books

    return books.verify_ledger(as_json=as_json)


@ledger.command("export", help=_("every entry, for a spreadsheet or for plain-text accounting"))
def _export(
    *,
    form: Annotated[
        str, typer.Option("--format", help="csv | hledger | beancount", metavar="FORMAT")
    ] = "csv",
    out: Annotated[
        Path | None, typer.Option(help=_("write into this file, not to stdout"), metavar="FILE")
    ] = None,
) -> int:
    from costguard.cli import books

    return books.export_ledger(form, out)


@notify.command("test", help=_("send a test message through each channel"))
def _notify_test(
    channel: Annotated[
        str | None, typer.Argument(help=_("this channel alone"), metavar="CHANNEL")
    ] = None,
    *,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import notify_test

    return notify_test.test_channels(channel, as_json=as_json)


def _backup(
    file: Annotated[Path, typer.Argument(help=_("a file that is not there yet"), metavar="FILE")],
    *,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import books

    return books.back_up(file, as_json=as_json)


def _restore(
    file: Annotated[Path, typer.Argument(help=_("what `costguard backup` wrote"), metavar="FILE")],
    *,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import books

    return books.restore(file, as_json=as_json)


def _confirm_stopped(
    job: Annotated[
        str, typer.Argument(help=_("the job's name"), metavar="JOB", autocompletion=job_names)
    ],
    *,
    at: Annotated[
        str,
        typer.Option(
            help=_("when it stopped, such as 2026-11-24T23:40 (local time)"), metavar="TIME"
        ),
    ],
    as_json: AsJson = False,
) -> int:
    from costguard.cli import books

    return books.confirm_stopped(job, at, as_json=as_json)
