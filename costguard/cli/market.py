"""`offers`, `images` and `doctor`: questions to the platforms, answered without a daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from costguard import paths
from costguard.cli.reading import print_json
from costguard.cli.text import Column, indented, labelled, print_lines, screen_of, table
from costguard.cli.words import duration, led_by, money
from costguard.errors import EXIT_USAGE, UserError
from costguard.lang import _
from costguard.retell import retell
from costguard.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from costguard.cli.text import Screen
    from costguard.core.moment import Moment

EXIT_NOT_FINE = 1
EPOCHS = 3  # the trainer's own default, which LLaMA-Factory has too


def show_offers(gpus: int, job: Path | None, tokens: int | None, *, as_json: bool) -> int:
    """Everything that can be rented, the cheapest first: by the hour, or to the job's end."""
    from costguard.daemon.market import offers_document

    if job is not None and tokens is None:
        tokens = job_tokens(job)
    document = offers_document(load_settings(paths.ensure_home()), _now(), gpus, tokens)
    if as_json:
        print_json(document)
        return 0
    print_lines(offer_lines(document, screen_of(sys.stdout)))
    return 0


def show_images(provider: str, words: list[str], *, as_json: bool) -> int:
    """A platform's images that bear these words."""
    from costguard.daemon.market import images_document

    document = images_document(load_settings(paths.ensure_home()), provider, " ".join(words))
    if as_json:
        print_json(document)
        return 0
    print_lines(image_lines(document, screen_of(sys.stdout)))
    return 0


def show_doctor(provider: str | None, gpu: str | None, *, as_json: bool) -> int:
    """What is fit for a night and what is not; 1 where something is not."""
    from costguard.daemon.doctor import doctor_document

    names = () if provider is None else (provider,)
    document = doctor_document(load_settings(paths.ensure_home()), _now(), names, gpu)
    if as_json:
        print_json(document)
    else:
        print_lines(doctor_lines(document, screen_of(sys.stdout)))
    return 0 if document["is_fine"] else EXIT_NOT_FINE


def job_tokens(job: Path) -> int:
    """Tokens that the job trains on in all its stages, by the trainer's own estimate.

    UserError for a command of one's own, of whose tokens nobody knows.
    """
    from costguard.jobfile import load_job
    from costguard.preflight import trainer_command

    spec = load_job(job, "1", check_data=False)
    total = 0
    for run, stage in zip(spec.runs, spec.stages, strict=False):
        there = run.argv[run.argv.index("--dataset") + 1] if "--dataset" in run.argv else None
        dataset = next((each.local for each in run.uploads if each.remote == there), None)
        if dataset is None:
            what = _("how many tokens a command of your own trains on is not known")
            raise UserError("no_tokens", what, str(job), "--tokens N", EXIT_USAGE)
        command, folder = trainer_command("check", dataset, "--json")
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        found = json.loads(done.stdout)
        samples = max(int(found["samples"]), 1)
        part = samples if stage.max_samples is None else min(stage.max_samples, samples)
        total += int(found["estimated_tokens"]) * part // samples * _epochs(run.argv)
    return total


def offer_lines(document: Mapping[str, Any], screen: Screen) -> list[str]:
    """The offers as a table, and which accounts did not answer."""
    with_finish = document["tokens"] is not None
    columns = [
        Column(_("provider")),
        Column(_("GPU"), elastic=True),
        Column(_("per hour"), right=True),
        Column(_("stock")),
        Column(_("to the end"), right=True) if with_finish else Column(_("off, a day"), right=True),
        Column(_("takes") if with_finish else _("region"), elastic=True, optional=not with_finish),
        Column(_("region") if with_finish else _("note"), elastic=True, optional=True),
    ]
    rows = [_offer_row(row, screen, with_finish=with_finish) for row in document["rows"]]
    lines = table(columns, rows, screen) if rows else [_("nothing is offered")]
    if with_finish and any(row["speed_kind"] == "calculated" for row in document["rows"]):
        lines += indented(_("* the card's speed is calculated, not measured"), screen)
    for one in document["failed"]:
        lines += indented(led_by(one["provider"], retell(one["what"])), screen)
    return lines


def image_lines(document: Mapping[str, Any], screen: Screen) -> list[str]:
    """The images as a table."""
    words = {True: _("yes"), False: _("too old"), None: _("does not say")}
    columns = [
        Column(_("image"), elastic=True),
        Column(_("name"), elastic=True),
        Column(_("kind")),
        Column("Qwen2.5"),
    ]
    rows = [
        [row["id"], row["name"], row["kind"], words[row["says_qwen25"]]] for row in document["rows"]
    ]
    return table(columns, rows, screen) if rows else [_("no image bears these words")]


def doctor_lines(document: Mapping[str, Any], screen: Screen) -> list[str]:
    """Each finding with a word on how it stands."""
    lines = [screen.paint(_("this machine"), "bold")]
    lines += [line for each in document["home"] for line in _finding_lines(each, screen)]
    for account in document["accounts"]:
        lines.append(screen.paint(account["provider"], "bold"))
        lines += [line for each in account["findings"] for line in _finding_lines(each, screen)]
    return lines


def _finding_lines(finding: Mapping[str, Any], screen: Screen) -> list[str]:
    mark = {True: _("ok"), False: _("NOT FIT"), None: _("to be shown")}[finding["is_fine"]]
    return labelled(finding_word(finding["what"]), [led_by(mark, retell(finding["text"]))], screen)


def finding_word(what: str) -> str:
    """What was looked at, in the language that is spoken."""
    return {
        "config": _("config"),
        "home": _("home"),
        "clock": _("clock"),
        "token": _("token"),
        "price": _("price"),
        "balance": _("balance"),
        "stop": _("stop"),
        "timer": _("timer"),
        "stop from inside": _("inside stop"),
        "login": _("log-in"),
        "host key": _("host key"),
        "release clock": _("deletion"),
        "tags": _("tags"),
        "create": _("rented"),
        "timer read back": _("timer read back"),
        "timer fires": _("timer fires"),
        "timer lateness": _("timer's lateness"),
        "resume": _("switched on again"),
        "login after a resume": _("log-in after that"),
    }.get(what, what)


def _offer_row(row: Mapping[str, Any], screen: Screen, *, with_finish: bool) -> list[str]:
    stock = {True: _("yes"), False: _("sold out"), None: "?"}[row["in_stock"]]
    count = f"{row['gpu_count']} x " if row["gpu_count"] > 1 else ""
    cells = [
        row["provider"],
        f"{count}{row['gpu']}",
        money(row["price_yuan_per_hour"], screen),
        stock,
    ]
    if not with_finish:
        off = money(row["paused_yuan_per_day"], screen)
        return [*cells, off, row["region"] or "-", row["note"]]
    mark = "*" if row["speed_kind"] == "calculated" else ""
    takes = duration(row["duration_s"]) + mark
    return [*cells, money(row["finish_yuan"], screen), takes, row["region"] or "-"]


def _epochs(run_words: tuple[str, ...]) -> int:
    """How often the data set is gone through, rounded up."""
    flag = "--num_train_epochs="
    given = next((word for word in run_words if word.startswith(flag)), None)
    if given is None:
        return EPOCHS
    whole, _dot, rest = given.removeprefix(flag).partition(".")
    return int(whole or 0) + bool(rest.strip("0"))


def _now() -> Moment:
    from costguard.daemon.clock import SystemClock

    return SystemClock().now()
