"""`kill -9` after random steps, inside saves and at any moment, again and again.

Never an unusable directory, never another result. `make test-full` kills 200 times; the histogram
of such a run is kept in `evidence/`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import Config

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("COSTGUARD_TEST_FULL"))
KILLS, KILLS_IN_SAVES = (200, 50) if FULL else (20, 5)

# A process that has imported everything and forks for each run: torch takes seconds to import.
PROGRAM = """
import hashlib, json, os, pathlib, random, signal, sys, time
from trainer.config import Config
from trainer.disk import Disk
from trainer.train import run
import trainer.session, torch, transformers, peft, bitsandbytes

fields, kills, out = json.loads(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
for name in ("dataset",):
    fields[name] = pathlib.Path(fields[name])
chance = random.Random("kills")
OPERATIONS = ("make_directory", "create", "write", "sync", "sync_directory", "rename",
              "remove_file", "remove_directory")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def child(config, point, number):
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1); os.dup2(devnull, 2)
    seen = [0]
    if point == "save":
        for name in OPERATIONS:
            plain = getattr(Disk, name)
            def counted(self, *arguments, plain=plain):
                seen[0] += 1
                if seen[0] == number:
                    die()
                return plain(self, *arguments)
            setattr(Disk, name, counted)
    def step(_done):
        if point == "step":
            seen[0] += 1
            if seen[0] == number:
                die()
    os._exit(run(config, step))

def attempt(directory, point, number):
    config = Config(**fields, output_dir=directory)
    pid = os.fork()
    if pid == 0:
        child(config, point, number)
    if point == "moment":
        time.sleep(number / 100 * whole_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def phase(directory):
    try:
        return json.loads((directory / "status.json").read_bytes())["phase"]
    except FileNotFoundError:
        return "start"

def adapter(directory):
    data = (directory / "adapter" / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(data).hexdigest()

began_s = time.monotonic()
assert attempt(out / "whole", "never", 0) == 0
whole_s = time.monotonic() - began_s
histogram, differing, bad_codes, runs = {}, 0, [], 0
while sum(histogram.values()) < kills:
    runs += 1
    directory = out / f"run-{runs}"
    while True:
        point = chance.choice(("save", "step", "moment"))
        number = chance.randint(1, {"save": 30, "step": 3, "moment": 100}[point])
        code = attempt(directory, point, number)
        if code == -signal.SIGKILL:
            key = f"moment in {phase(directory)}" if point == "moment" else f"{point} {number:02}"
            histogram[key] = histogram.get(key, 0) + 1
            continue
        if code:
            bad_codes.append(code)
        differing += code != 0 or adapter(directory) != adapter(out / "whole")
        break
print(json.dumps({"histogram": histogram, "differing": differing, "bad": bad_codes, "runs": runs}))
"""


@pytest.mark.torch
def test_kills_at_random_never_change_the_result(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Each run, killed several times, ends with the bytes of the one that never was.

    `save N`: at the N-th file operation of that process; `step N`: after its N-th step; `moment`:
    whenever a clock says so, told by the phase that status.json was left in.
    """
    config = make_config(lora_dropout=0.1, save_steps=1)
    fields = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(config).items()
        if name not in {"run", "row_format", "output_dir", "notices"}
    }
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(fields)]
    done = subprocess.run(
        [*program, str(KILLS), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    histogram: dict[str, int] = told["histogram"]
    print(json.dumps(told, sort_keys=True))  # noqa: T201 - the histogram is kept with the log
    assert (told["differing"], told["bad"]) == (0, [])
    assert sum(histogram.values()) >= KILLS
    inside = sum(count for point, count in histogram.items() if "save" in point)
    assert inside >= KILLS_IN_SAVES
