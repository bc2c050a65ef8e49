"""The commands that ask the platforms: doctor, offers, estimate, images."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (Typer evaluates the annotations)
from typing import Annotated

import typer

from costguard.lang import _

AsJson = Annotated[bool, typer.Option("--json", help=_("one JSON document on stdout"))]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("doctor", help=_("check everything that is free to check; rents nothing"))(_doctor)
    app.command("offers", help=_("what can be rented, on every account of the config"))(_offers)
    app.command("estimate", help=_("yuan to finish, on each GPU and platform, before renting"))(
        _estimate
    )
    app.command("images", help=_("which images a platform has"))(_images)


def _doctor(
    *,
    provider: Annotated[
        str | None, typer.Option(help=_("this account alone, such as ssh.box1"), metavar="NAME")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help=_("the card to ask the price of"), metavar="GPU")
    ] = None,
    drill: Annotated[
        bool,
        typer.Option(
            "--drill", help=_("rent one, and see the platform's timer stop it: costs money")
        ),
    ] = False,
    image: Annotated[
        str | None, typer.Option(help=_("the image that a drill rents"), metavar="ID")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help=_("do not ask"))] = False,
    as_json: AsJson = False,
) -> int:
    if drill:
        from costguard.cli.drill import run_drill

        return run_drill(provider, gpu, image, yes=yes, as_json=as_json)
    from costguard.cli import market

    return market.show_doctor(provider, gpu, as_json=as_json)


def _offers(
    *,
    gpus: Annotated[int, typer.Option(help=_("with so many cards"), min=1, metavar="N")] = 1,
    job: Annotated[
        Path | None,
        typer.Option(help=_("sort by what this job costs to its end"), metavar="JOB.toml"),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help=_("as --job, for so many tokens"), min=1, metavar="N")
    ] = None,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import market

    return market.show_offers(gpus, job, tokens, as_json=as_json)


def _estimate(
    job_file: Annotated[Path, typer.Argument(help=_("the job file"), metavar="JOB.toml")],
    *,
    budget: Annotated[
        str | None, typer.Option("--budget", help=_("yuan; overrides the file"), metavar="YUAN")
    ] = None,
    as_json: AsJson = False,
) -> int:
    from costguard.cli import estimate

    return estimate.show_estimate(job_file, budget, as_json=as_json)


def _images(
    words: Annotated[
        list[str] | None, typer.Argument(help=_("words that its name bears"), metavar="WORDS")
    ] = None,
    *,
    provider: Annotated[str, typer.Option(help=_("the platform"), metavar="NAME")],
    as_json: AsJson = False,
) -> int:
    from costguard.cli import market

    return market.show_images(provider, words or [], as_json=as_json)
