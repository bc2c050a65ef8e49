"""`shell`, `chat` and `export`, as Typer has them."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (Typer evaluates the annotations)
from typing import Annotated

import typer

from costguard.cli.completing import job_names
from costguard.lang import _

Job = Annotated[
    str, typer.Argument(help=_("the job's name"), metavar="JOB", autocompletion=job_names)
]
For = Annotated[
    str, typer.Option("--for", help=_("how long at most, booting included"), metavar="TIME")
]
Yes = Annotated[bool, typer.Option("--yes", help=_("do not ask"))]
Here = Annotated[
    bool, typer.Option("--here", help=_("on this machine, where the adapter is home: no rent"))
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("shell", help=_("look around on an ended job's instance; off afterwards"))(_shell)
    app.command("chat", help=_("talk to what a job has trained"))(_chat)
    app.command("export", help=_("merge the adapter into its base, and bring it home"))(_export)


def _shell(
    job: Job,
    *,
    length: For = "30m",
    hold: Annotated[
        bool, typer.Option("--hold", help=_("no shell here: print the ssh command, and wait"))
    ] = False,
    yes: Yes = False,
) -> int:
    from costguard.cli import results

    return results.shell(job, length, hold=hold, yes=yes)


def _chat(
    job: Job,
    *,
    length: For = "30m",
    interview: Annotated[
        Path | None,
        typer.Option("--interview", help=_("questions with what is right"), metavar="FILE"),
    ] = None,
    here: Here = False,
    yes: Yes = False,
) -> int:
    from costguard.cli import results

    return results.chat(job, length, interview=interview, here=here, yes=yes)


def _export(
    job: Job,
    *,
    length: For = "2h",
    bits: Annotated[
        int | None, typer.Option("--bits", help=_("4: NF4; without it, bf16"), metavar="4")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help=_("a folder that is not there yet"), metavar="DIR")
    ] = None,
    here: Here = False,
    yes: Yes = False,
) -> int:
    from costguard.cli import results

    return results.export(job, length, bits=bits, to=to, here=here, yes=yes)
