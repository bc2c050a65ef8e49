from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from costguard.agent import interpreters
from costguard.core.environment import lacking
from costguard.remote.bundle import build_agent

if TYPE_CHECKING:
    from tests.agent.harness import Job

HOSTILE = ["-rf", "a b", "it's", 'say "hi"', "$(touch pwned)", "new\nline", "线", "~", "*"]


def test_the_bundle_is_the_same_each_time() -> None:
    """Equal sources, equal bytes: what an instance has it does not get again."""
    assert build_agent() == build_agent()


def test_the_agent_needs_nothing_installed(job: Job) -> None:
    """Isolated from every site directory, it still answers."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(job.agent_path), "probe", f"--dir={job.directory}"],
        capture_output=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["agent_python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert answer["cpu_count"] >= 1
    assert answer["disk_free_mib"] > 0
    assert answer["nvml"]["state"] in {"absent", "ok"}


def test_what_is_needed_and_missing_is_named(job: Job) -> None:
    """By the probe, and again by the start, which then starts nothing."""
    job.order(argv=["{python}", "toy.py", "{}"], needs=["json", "no_such_module_at_all"])
    probed = json.loads(job.command("probe", f"--dir={job.directory}").stdout)
    assert probed["needs"] == {"python": None, "missing": ["no_such_module_at_all"]}
    answer = job.start()
    assert answer["error"]["code"] == "missing_modules"
    assert "no_such_module_at_all" in answer["error"]["what"]
    assert not (job.directory / "agent.sock").exists()


def test_the_python_with_the_modules_is_taken(job: Job, tmp_path: Path) -> None:
    """Not the first on PATH, if that one lacks what is needed."""
    poor, rich = tmp_path / "poor", tmp_path / "rich"
    for place, extra in ((poor, ""), (rich, f"PYTHONPATH={tmp_path / 'lib'} ")):
        place.mkdir()
        name = place / ("python3" if place is poor else "python")
        name.write_text(f'#!/bin/sh\n{extra}exec {sys.executable} "$@"\n')
        name.chmod(0o755)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/only_there.py").write_text("")
    path = f"{poor}:{rich}:/usr/bin:/bin"
    job.order(argv=["{python}", "toy.py", "{}"], needs=["only_there"], env={"PATH": path})
    assert job.start()["python"] == str(rich / "python")
    reader = job.attach()
    reader.lease()
    reader.wait_for("exit", code=0)


def test_modules_are_looked_up_not_imported(tmp_path: Path) -> None:
    """A broken or slow package costs nothing, and its version is read from its metadata."""
    (tmp_path / "torch.py").write_text("raise SystemExit(9)")
    info = tmp_path / "torch-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.8.7\n")
    env = {"PYTHONPATH": str(tmp_path)}
    found = interpreters.inspect(sys.executable, ["torch", "nothing_here"], env, tmp_path)
    assert found is not None
    assert found.modules == {"torch": "9.8.7", "nothing_here": None}
    assert lacking(found.modules, ["torch", "nothing_here"], {}) == ["nothing_here"]


def test_a_python_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    """Not there, or no Python at all."""
    assert interpreters.inspect("/no/such/python", [], {}, tmp_path) is None
    assert interpreters.inspect("/bin/true", [], {}, tmp_path) is None


@pytest.mark.parametrize("how", ["arguments", "standard input"])
def test_hashes_of_files_with_hostile_names(job: Job, how: str) -> None:
    """Names are names: options, quotes, newlines and all; what is missing is null."""
    for name in HOSTILE:
        (job.directory / name).write_text(name)
    names = [*HOSTILE, "missing"]
    if how == "arguments":
        done = job.command("hash", f"--dir={job.directory}", "--", *names)
    else:
        done = job.command("hash", f"--dir={job.directory}", input=json.dumps(names))
    files = json.loads(done.stdout)["files"]
    assert files.pop("missing") is None
    for name in HOSTILE:
        content = name.encode()
        expected = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert files[name] == expected


def test_files_are_sent_from_where_they_are_wanted(job: Job) -> None:
    """Header and bytes for each; an error line, and no bytes, for one that is not there."""
    (job.directory / "a\nb").write_bytes(b"0123456789")
    order = json.dumps([["a\nb", 4], ["missing", 0], ["a\nb", 0]])
    done = job.command("send", f"--dir={job.directory}", input=order)
    first, rest = done.stdout.split("\n", 1)
    assert json.loads(first) == {"path": "a\nb", "bytes": 6}
    assert rest.startswith("456789{")
    assert "No such file" in rest
    assert rest.endswith("0123456789")


def test_attach_without_an_agent_says_so(job: Job) -> None:
    """As JSON, with a status of its own."""
    job.order()
    done = job.command("attach", f"--dir={job.directory}")
    assert json.loads(done.stdout)["error"]["code"] == "no_agent"
    assert done.returncode == 4


def test_a_wrong_order_is_refused_at_the_start(job: Job) -> None:
    """In one clear sentence, with the field."""
    job.order(argv=[])
    answer = job.start()
    assert answer["error"]["code"] == "bad_spec"
    assert "argv" in answer["error"]["what"]
    (job.directory / "spec.json").unlink()
    assert "is not there" in job.start()["error"]["what"]
    assert (
        "No such file"
        in json.loads(job.command("start", "--dir=/no/where").stdout)["error"]["what"]
    )


def test_the_directory_may_lie_deep(job: Job, tmp_path: Path) -> None:
    """A Unix socket's path is short, the job's directory need not be."""
    from tests.agent.harness import Job as MakeJob

    deep = MakeJob(tmp_path / Path(*["a rather long directory name"] * 8))
    try:
        reader = deep.begin()
        reader.wait_for("exit", code=0)
    finally:
        deep.end()
