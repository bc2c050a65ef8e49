"""`costguard demo`: run one story for real and show the verdict, its evidence and the money.

Nothing is staged but the fault: the training is QLoRA through SSH on a rented instance of the
local platform, the books are the ledger's, the bill is the platform's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import costguard.demo
from costguard.cli.client import ask, ask_daemon
from costguard.cli.words import listed
from costguard.demo.scenarios import CRASH_AT_STEP, Scenario, job_file, scenario_named
from costguard.demo.stage import Interrupted, Stage, require_trainer, stage, terminable
from costguard.demo.verdict import Outcome, judge, money_lines
from costguard.errors import EXIT_INTERNAL, UserError
from costguard.jobfile import load_job
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

DEMO_SCHEMA = "costguard.demo/1"
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
ARTIFACTS = Path("costguard-demo")


def run_demo(scenario: str, *, as_json: bool = False, keep_home: Path | None = None) -> int:
    """Run one story; exit code 0 when it ended as it must and the books match the bill."""
    from rich.console import Console

    story = scenario_named(scenario)
    require_trainer()
    console = Console(stderr=as_json, highlight=False)
    started = time.monotonic()
    try:
        with terminable(), stage(keep_home) as on:
            outcome = _play(story, on, console)
    except KeyboardInterrupt:
        console.print(_("interrupted: the daemon and the platform were ended, nothing is left"))
        return EXIT_INTERRUPTED
    except Interrupted:
        return EXIT_TERMINATED
    outcome.duration_s = round(time.monotonic() - started, 1)
    if as_json:
        print(json.dumps({"schema": DEMO_SCHEMA, **outcome.to_json()}, ensure_ascii=False))
    return 0 if outcome.is_right else EXIT_INTERNAL


def _play(story: Scenario, on: Stage, console: Console) -> Outcome:
    say = _sayer(console)
    say(f"[{story.name}] {retell(story.story)}")
    artifacts = ARTIFACTS.absolute() / story.name
    shutil.rmtree(artifacts, ignore_errors=True)
    job_path = _write_job(story, on, artifacts, say)
    say(_("starting the daemon"))
    on.start_daemon()
    spec = load_job(job_path)
    plan = ask_daemon("submit", {"spec": spec.to_json(), "key": str(uuid.uuid4())}, 60)
    told = _(
        "submitted {job}: at {price} yuan an hour it can cost at most {worst} yuan, "
        "enforced by: {enforcers}"
    )
    enforcers = listed(retell(each) for each in plan["enforcers"])
    price, worst = plan["price_yuan_per_hour"], plan["worst_case_yuan"]
    say(told.format(job=spec.name, price=price, worst=worst, enforcers=enforcers))
    from costguard.cli.follow import conclusion, follow, screen_of_console

    seen = _crash(spec.name, on, console, say) if story.kills_daemon else 0
    final = follow(spec.name, ask=ask, console=console, after=seen)
    outcome = judge(story, spec.name, on)
    for line in conclusion(final, ask, screen_of_console(console)):
        console.print(line, markup=False, soft_wrap=True)
    for line in money_lines(outcome):
        console.print(line, markup=False, soft_wrap=True)
    if artifacts.exists():
        home = artifacts.relative_to(Path.cwd())
        home_line = _("brought home: {path}").format(path=f"{home}/{spec.name}/")
        console.print(home_line, markup=False, soft_wrap=True)
    return outcome


def _crash(job: str, on: Stage, console: Console, say: Callable[[str], None]) -> int:
    """Kill the daemon in mid-training and start it again; returns the last event told before."""
    from costguard.cli.follow import follow

    seen = follow(
        job, ask=ask, console=console, until=lambda row: (row["step"] or 0) >= CRASH_AT_STEP
    )
    assert on.daemon is not None
    gone = _("!!! kill -9 {pid}: the daemon is gone, the training is not")
    say(gone.format(pid=on.daemon.pid))
    on.kill_daemon()
    time.sleep(3)  # the story: some seconds without anybody watching
    say(_("starting the daemon again"))
    on.start_daemon()
    return seen.last_event


def _write_job(story: Scenario, on: Stage, artifacts: Path, say: Callable[[str], None]) -> Path:
    """Lay out the job's folder as a person would have it: data, model, job file."""
    folder = on.home / "job"
    (folder / "data").mkdir(parents=True)
    trainer = trainer_folder()
    shutil.copy(trainer / "examples" / "kefu" / "train.jsonl", folder / "data" / "train.jsonl")
    say(_("making a small Qwen2 model and its tokenizer from the data set (offline)"))
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainer",
            "make-model",
            "--out",
            str(folder / "model"),
            "--data",
            str(folder / "data" / "train.jsonl"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        what = _("the demo's model could not be made: {why}").format(why=made.stderr[-300:])
        raise UserError("make_model", what, str(folder))
    if story.hang is not None:
        ignore = shutil.ignore_patterns("__pycache__", "examples")
        shutil.copytree(trainer, folder / "trainer", ignore=ignore)
        script = Path(costguard.demo.__file__).parent / "hanging_training.py"
        shutil.copy(script, folder / "hanging_training.py")
    path = folder / "job.toml"
    path.write_text(job_file(story, artifacts), encoding="utf-8")
    return path


def trainer_folder() -> Path:
    """Where the trainer package is, without importing it."""
    from importlib.util import find_spec

    found = find_spec("trainer")
    assert found is not None, "the trainer is part of this distribution"
    assert found.origin is not None, "the trainer is a package"
    return Path(found.origin).parent


def _sayer(console: Console) -> Callable[[str], None]:
    def say(text: str) -> None:
        clock = time.strftime("%H:%M:%S")
        console.print(f"{clock}  {text}", markup=False, soft_wrap=True)

    return say
