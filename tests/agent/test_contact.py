from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.contact import look_at_torch, needs_from, reach
from costguard.agent.mounts import is_network, mount_of
from costguard.agent.room import room
from costguard.core.contact import Needs
from tests.agent.nvml import build, compiler

if TYPE_CHECKING:
    from tests.agent.harness import Job

TORCH = """
__version__ = "2.6.0+cu121"
class version:
    cuda = "12.1"
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    get_device_capability = staticmethod(lambda index: (8, 6))
"""


def install(site: Path, name: str, version: str, code: str = "") -> None:
    """A package of that name and version on a path."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / f"{name}.py").write_text(code)


def ask(job: Job, asked: dict[str, Any], **env: str) -> dict[str, Any]:
    """The `contact` message of that order."""
    done = job.command(
        "contact", f"--dir={job.directory}", input=json.dumps(asked), env={**os.environ, **env}
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rows_of(answer: dict[str, Any]) -> dict[str, str]:
    """The verdict of each check."""
    return {row["check"]: row["verdict"] for row in answer["rows"]}


def test_a_machine_with_everything_is_seen_to_have_it(job: Job, tmp_path: Path) -> None:
    """Driver and card through NVML, torch and the packages in the training's own Python."""
    if compiler() is None:
        pytest.skip("no C compiler: the stand-in for NVML cannot be built")
    library, script, site = build(tmp_path / "nvml"), tmp_path / "script", tmp_path / "site"
    script.write_text("count 1\n0.used_mib 100\n")
    install(site, "torch", "2.6.0+cu121", TORCH)
    install(site, "peft", "0.15.2")
    job.order(env={"PYTHONPATH": str(site)}, needs=["torch", "peft"])
    needs = {"bf16": True, "vram_mib": 20_000, "versions": {"torch": "2.6", "peft": "0.16"}}
    asked = {"needs": needs, "utc_ms": time.time_ns() // 1_000_000}
    nvml = {"LD_LIBRARY_PATH": str(library), "NVML_SCRIPT": str(script)}
    answer = ask(job, asked, **nvml)
    assert rows_of(answer) == {
        "driver": "ok",
        "cards": "ok",
        "python": "ok",
        "torch sees CUDA": "ok",
        "torch": "ok",
        "peft": "fail",
        "bf16": "ok",
        "disk": "ok",
        "clock": "ok",
    }
    assert (answer["t"], answer["verdict"]) == ("contact", "fail")
    assert any("0.15.2" in line for line in answer["lines"])


def test_what_torch_cannot_say_nvml_does(job: Job, tmp_path: Path) -> None:
    """The compute capability, where no torch is there to ask."""
    if compiler() is None:
        pytest.skip("no C compiler: the stand-in for NVML cannot be built")
    library, script = build(tmp_path / "nvml"), tmp_path / "script"
    script.write_text("count 1\n0.capability 7\n")
    job.order(env={"PATH": f"{Path(sys.executable).parent}"}, needs=[])
    broken = tmp_path / "site"
    install(broken, "torch", "2.6.0", "raise ImportError('libcudart.so.12: not found')")
    nvml = {"LD_LIBRARY_PATH": str(library), "NVML_SCRIPT": str(script)}
    job.order(env={"PYTHONPATH": str(broken)})
    answer = ask(job, {"needs": {}}, **nvml)
    assert rows_of(answer)["bf16"] == "warn"
    (torch,) = [row for row in answer["rows"] if row["check"] == "torch sees CUDA"]
    assert torch["verdict"] == "fail"
    assert "libcudart.so.12" in torch["seen"]


def test_a_python_without_torch_says_why(tmp_path: Path) -> None:
    """The last line of what it said, or that it does not run at all."""
    env = {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "torch.py").write_text("import no_such_thing_at_all")
    assert "no_such_thing_at_all" in look_at_torch(sys.executable, env, tmp_path)["error"]
    assert "FileNotFoundError" in look_at_torch("/no/such/python", env, tmp_path)["error"]
    (tmp_path / "torch.py").write_text("raise SystemExit(9)")
    assert look_at_torch(sys.executable, env, tmp_path)["error"] == "exit code 9"


def test_a_host_answers_or_says_why_not() -> None:
    """A port that listens, and one that does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = reach(f"127.0.0.1:{port}")
        assert (found["ok"], found["error"]) == (True, "")
    refused = reach(f"127.0.0.1:{port}")
    assert refused["ok"] is False
    assert "ConnectionRefusedError" in refused["error"]
    assert "ValueError" in reach("127.0.0.1:x")["error"]


def test_the_order_may_hold_anything() -> None:
    """What is not of the expected kind counts as not said."""
    raw = {
        "cuda": False,
        "bf16": 1,
        "vram_mib": True,
        "cards": 2,
        "versions": {"torch": 2},
        "hosts": ["a", 3],
        "data": "x",
        "from_the_future": 1,
    }
    assert needs_from(raw) == Needs(cuda=False, cards=2, versions={"torch": "2"}, hosts=("a", "3"))


MOUNTS = r"""
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:40 / /data rw - nfs4 nas:/exports/a rw,vers=4.2
31 30 0:41 / /data/local\040disk rw shared:9 - xfs /dev/vdb rw
32 21 0:42 / /oss rw - fuse.ossfs ossfs rw
33 21 0:43 / /data rw - nfs4 nas:/exports/b rw
torn line
"""


@pytest.mark.parametrize(
    ("path", "kind", "source", "network"),
    [
        ("/somewhere", "ext4", "/dev/vda", False),
        ("/data/train.jsonl", "nfs4", "nas:/exports/b", True),
        ("/database", "ext4", "/dev/vda", False),
        ("/data/local disk/x", "xfs", "/dev/vdb", False),
        ("/oss", "fuse.ossfs", "ossfs", True),
    ],
)
def test_a_paths_mount_is_found(
    tmp_path: Path, path: str, kind: str, source: str, *, network: bool
) -> None:
    """The deepest that holds it; of two on one point the later."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    found = mount_of(Path(path), tmp_path / "mountinfo")
    assert found == {"type": kind, "source": source, "network": network}


def test_where_mounts_cannot_be_read_nothing_is_known(tmp_path: Path) -> None:
    """Neither local nor remote."""
    assert mount_of(Path("/"), tmp_path / "nothing") is None
    assert is_network("fuse.juicefs")
    assert not is_network("fuse.lxcfs")


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("COSTGUARD_MODELS", "Qwen--Q2.5-7B/main"),
        ("HF_HOME", "hub/models--Qwen--Q2.5-7B/blobs"),
        ("MODELSCOPE_CACHE", "models/Qwen/Q2___5-7B"),
        ("MODELSCOPE_CACHE", "hub/._____temp/Qwen/Q2.5-7B"),
    ],
)
def test_what_was_fetched_before_is_found(tmp_path: Path, variable: str, folder: str) -> None:
    """In each one's own layout, half-fetched files too."""
    there = tmp_path / "cache" / folder
    there.mkdir(parents=True)
    with (there / "weights").open("wb") as weights:
        weights.truncate(3 * 2**20)  # it takes no room in truth
    needs = Needs(model="Qwen/Q2.5-7B", model_cache=variable)
    assert room(needs, {variable: str(tmp_path / "cache")}, tmp_path) == {"model_mib": 3}
    other = Needs(model="Qwen/other", model_cache=variable)
    assert room(other, {variable: str(tmp_path / "cache")}, tmp_path) == {"model_mib": 0}


def test_checkpoints_that_are_there_and_a_folder_of_the_jobs_own_are_found(tmp_path: Path) -> None:
    """So that a resume is not asked for the same room twice; a cache may still be to be made."""
    saved = tmp_path / "output" / "checkpoint-5"
    saved.mkdir(parents=True)
    (saved / "model").write_bytes(bytes(2 * 2**20))
    needs = Needs(model="a/b", model_cache="HF_HOME", model_dir="not/there", saves="output")
    assert room(needs, {}, tmp_path) == {"saves_mib": 2, "model_mib": 0}
    assert room(Needs(model="a/b"), {}, tmp_path) == {}


@pytest.mark.skipif(
    not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == Path("/").stat().st_dev,
    reason="there is no second file system here",
)
def test_a_cache_on_another_disk_tells_its_own_room(tmp_path: Path) -> None:
    """The folder is not there yet; the nearest above it says which disk it will be on."""
    if tmp_path.stat().st_dev == Path("/dev/shm").stat().st_dev:
        pytest.skip("the tests' own folder is on that file system")
    needs = Needs(model="a/b", model_cache="HF_HOME", model_dir="/dev/shm/none/such")
    found = room(needs, {}, tmp_path)
    assert found["models_free_mib"] <= shutil.disk_usage("/dev/shm").total // 2**20


def test_a_disk_too_small_for_the_model_is_told_before_anything_is_fetched(job: Job) -> None:
    """The agent's own look, by the order's caches."""
    job.order(caches="caches")
    needs = {"cuda": False, "model": "a/b-900B", "model_mib": 10**9, "model_cache": "HF_HOME"}
    answer = ask(job, {"needs": needs}, HF_HOME=str(job.directory / "hf"))
    (row,) = [row for row in answer["rows"] if row["check"] == "disk"]
    assert (row["verdict"], row["wanted"]) == ("fail", "1000000000 MiB for the model")
