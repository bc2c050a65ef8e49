"""`costguard init`, as Typer has it: one flag an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from costguard.lang import _


def _flag(about: str, metavar: str, *names: str) -> Any:
    return typer.Option(*names, help=about, metavar=metavar)


Text = str | None
Provider = Annotated[Text, _flag(_("the platform"), "NAME")]
JobFile = Annotated[Path | None, _flag(_("the job file to write"), "JOB.toml", "--job")]
Name = Annotated[Text, _flag(_("the job's name"), "NAME")]
Gpu = Annotated[Text, _flag(_("the card"), "GPU")]
Price = Annotated[
    Text, _flag(_("what an hour costs in the console, where it must be told"), "PRICE")
]
Image = Annotated[Text, _flag(_("the image's id or name"), "ID")]
InstanceId = Annotated[Text, _flag(_("an instance that is there already"), "ID", "--adopt")]
Budget = Annotated[Text, _flag(_("the job's cap"), "YUAN")]
MonthBudget = Annotated[Text, _flag(_("the cap of a calendar month"), "YUAN")]
Data = Annotated[Text, _flag(_("the data set"), "FILE")]
KINDS = "none | wecom | dingtalk | feishu | serverchan | apprise"
Notify = Annotated[Text, _flag(KINDS, "KIND")]
YuanPerUsd = Annotated[Text, _flag(_("what one US dollar costs you"), "YUAN")]
Ssh = Annotated[Text, _flag(_("the SSH line of the console"), "LINE")]
Box = Annotated[Text, _flag(_("what to call that machine"), "NAME")]
KeyFile = Annotated[Text, _flag(_("your own SSH key for it"), "FILE")]
SecretsStdin = Annotated[
    bool,
    typer.Option(
        "--secrets-stdin",
        help=_("read the secrets from standard input, one a line, in their order"),
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help=_("add to a config that is there, without asking"))
]
Check = Annotated[bool, typer.Option("--check/--no-check", help=_("run `doctor` at the end"))]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("init", help=_("a first config and job file, by questions or by flags"))(_init)


def _init(
    *,
    provider: Provider = None,
    job: JobFile = None,
    name: Name = None,
    gpu: Gpu = None,
    price: Price = None,
    image: Image = None,
    instance_id: InstanceId = None,
    budget: Budget = None,
    month_budget: MonthBudget = None,
    data: Data = None,
    notify: Notify = None,
    yuan_per_usd: YuanPerUsd = None,
    ssh: Ssh = None,
    box: Box = None,
    key_file: KeyFile = None,
    secrets_stdin: SecretsStdin = False,
    yes: Yes = False,
    check: Check = True,
) -> int:
    from costguard.cli.init import Flags, init

    flags = Flags(
        provider=provider,
        job=job,
        name=name,
        gpu=gpu,
        price=price,
        image=image,
        instance_id=instance_id,
        budget=budget,
        month_budget=month_budget,
        data=data,
        notify=notify,
        yuan_per_usd=yuan_per_usd,
        ssh=ssh,
        box=box,
        key_file=key_file,
        secrets_stdin=secrets_stdin,
        yes=yes,
        check=check,
    )
    return init(flags)
