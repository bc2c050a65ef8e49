"""The commands that only read: status, watch, report, explain, logs, budget show, data."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from costguard.cli.client import ask
from costguard.cli.text import Screen, print_lines, screen_of
from costguard.errors import EXIT_USAGE, UserError
from costguard.lang import _, environment
from costguard.retell import retell_line

if TYPE_CHECKING:
    from pathlib import Path

WATCH_INTERVAL_S = 1.0
LOGS_INTERVAL_S = 1.0
PAGE_TIMEOUT_S = 120.0  # weeks of telemetry are read for the charts
FINAL_STATES = frozenset({"paused", "finished", "failed", "released"})


def print_json(document: object) -> None:
    """One JSON document on standard output, in ASCII where the encoding is not Unicode's."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(document, ensure_ascii=not unicode, indent=2))


def print_json_line(document: object) -> None:
    """One line of a JSON Lines stream, written at once."""
    print(json.dumps(document), flush=True)


def show_status(job: str | None, *, as_json: bool) -> int:
    """What is happening, of one job or of all."""
    document = ask("status", {"job": job} if job else {})
    if as_json:
        print_json(document)
        return 0
    from costguard.cli.render import status_lines

    print_lines(status_lines(document, screen_of(sys.stdout)))
    return 0


def show_report(by: str | None, *, as_json: bool, as_csv: bool, html: Path | None = None) -> int:
    """Spend to date."""
    if as_json + as_csv + (html is not None) > 1:
        what = _("--json, --csv and --html exclude each other")
        raise UserError("usage", what, "report", _("take one of them"), EXIT_USAGE)
    if html is not None:
        from costguard.cli.page import write_page

        write_page(ask("page", {"by": by} if by else {}, PAGE_TIMEOUT_S), html)
        print(_("written: {path}").format(path=html), file=sys.stderr)
        return 0
    document = ask("report", {"by": by} if by else {})
    if as_json:
        print_json(document)
        return 0
    from costguard.cli.spend import report_csv, report_lines

    if as_csv:
        sys.stdout.write(report_csv(document))
    else:
        print_lines(report_lines(document, screen_of(sys.stdout)))
    return 0


def show_explain(job: str, *, as_json: bool) -> int:
    """Why a job is where it is."""
    document = ask("explain", {"job": job})
    if as_json:
        print_json(document)
        return 0
    from costguard.cli.render import explain_lines

    print_lines(explain_lines(document, screen_of(sys.stdout)))
    return 0


def show_budgets(*, as_json: bool) -> int:
    """Every cap and what is left under it."""
    document = ask("budget_show", {})
    if as_json:
        print_json(document)
        return 0
    from costguard.cli.render import budget_lines

    print_lines(budget_lines(document, screen_of(sys.stdout)))
    return 0


def show_logs(job: str, *, on_and_on: bool, as_json: bool) -> int:
    """What the training printed so far; with `on_and_on` until the job has ended."""
    after, lines, ended = 0, [], False
    while True:
        answer = ask("logs", {"job": job, "after": after})
        after = answer["last"]
        if as_json and not on_and_on:
            lines += answer["lines"]
        else:
            _print_log(job, answer["lines"], as_json=as_json)
        if answer["lines"]:
            continue  # the daemon gives them in portions
        if ended or not on_and_on:
            break
        ended = _nothing_moves(ask("status", {"job": job}))  # what came before the end comes yet
        time.sleep(0 if ended else LOGS_INTERVAL_S)
    if as_json and not on_and_on:
        print_json({"schema": "costguard.logs/1", "job": job, "lines": lines})
    return 0


def watch(job: str | None, *, as_json: bool, rounds: int | None = None) -> int:
    """The status, live; where it is piped, again each time that it has changed.

    Ends when no job is left that could change, or after `rounds`.
    """
    args = {"job": job} if job else {}
    screen = screen_of(sys.stdout)
    if not ask("status", args)["jobs"]:
        print(_("no jobs yet: costguard run JOB.toml"), file=sys.stderr)
        return 0
    if sys.stdout.isatty() and not as_json:
        return _watch_live(args, screen, rounds)
    return _watch_plain(args, screen, rounds, as_json=as_json)


def check_data(file: Path, *, as_json: bool) -> int:
    """The trainer's judgement of a data set; its own exit code (65: refused)."""
    return _trainer(file, "check", as_json=as_json)


def mask_data(file: Path, out: Path | None, *, as_json: bool) -> int:
    """A copy of the data set without the personal data that `data check` finds in it."""
    out = file.with_name(f"{file.stem}.masked{file.suffix}") if out is None else out
    return _trainer(file, "mask", "--out", str(out.absolute()), as_json=as_json)


def _trainer(file: Path, do: str, *words: str, as_json: bool) -> int:
    import subprocess

    from costguard.preflight import trainer_command

    if not file.exists():
        what = _("{path} does not exist").format(path=file)
        raise UserError("missing_dataset", what, str(file), _("check the path"), EXIT_USAGE)
    more = [*words, "--json"] if as_json else words
    command, folder = trainer_command(do, str(file.absolute()), *more)
    sys.stdout.flush()
    speaking = {**os.environ, **environment()}
    return subprocess.run(command, cwd=folder, env=speaking, check=False).returncode


def _watch_live(args: dict[str, Any], screen: Screen, rounds: int | None) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from costguard.cli.render import status_lines
    from costguard.cli.watching import Histories

    histories = Histories()
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            document = ask("status", args)
            drawn = "\n".join([*status_lines(document, screen), *histories.lines(document, screen)])
            live.update(Text.from_ansi(drawn), refresh=True)
            rounds = None if rounds is None else rounds - 1
            if rounds == 0 or _nothing_moves(document):
                return 0
            time.sleep(WATCH_INTERVAL_S)


def _watch_plain(args: dict[str, Any], screen: Screen, rounds: int | None, *, as_json: bool) -> int:
    from costguard.cli.follow import Story
    from costguard.cli.words import clock

    stories: dict[str, Story] = {}
    while True:
        document = ask("status", args)
        news = [
            (row["job"], item.text)
            for row in document["jobs"]
            for item in stories.setdefault(row["job"], Story(screen)).of_row(row)
        ]
        if as_json and news:
            print_json_line(document)
        elif news:
            at = clock(document["as_of"])
            print_lines([f"{at}  {job}  {text}" for job, text in news])
        rounds = None if rounds is None else rounds - 1
        if rounds == 0 or _nothing_moves(document):
            return 0
        time.sleep(WATCH_INTERVAL_S)


def _nothing_moves(document: dict[str, Any]) -> bool:
    return all(row["state"] in FINAL_STATES for row in document["jobs"])


def _print_log(job: str, lines: list[str], *, as_json: bool) -> None:
    for line in lines:
        if as_json:
            print_json_line({"job": job, "line": line})
        else:
            print(retell_line(line), flush=True)
