from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.harness import wait_until
from tests.agent.test_contact import install as put_package
from tests.remote.package_index import Index
from tests.remote.world import World, absolute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from costguard.remote.link import LinkPlan
    from tests.remote.ssh_server import Machine

TELLS = """
import importlib.metadata, json, sys
import {module}
json.dump({{"prefix": sys.prefix, "said": {module}.SAID, "python": sys.executable,
           "torch": importlib.metadata.version("torch")}}, open("told.json", "w"))
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """A package index that has a trainer's library, and a torch that nobody may take."""
    made = Index(tmp_path / "index")
    made.add("cg_library", "1.2.0", ("torch>=2.0", "cg_helper"), "SAID = 'hello'\n")
    made.add("cg_helper", "0.1")
    made.add("cg_greedy", "1.0", ("torch>=99",))
    made.add("torch", "99.0")
    yield made
    made.close()


def order(world: World, machine: Machine, index: Index, name: str, **other: Any) -> LinkPlan:
    """A job that needs the library, on an image that has a torch and not the library."""
    site = world.home / "image"
    if not site.exists():
        put_package(site, "torch", "2.6.0+cu121")
    module = "cg_library"
    install = {
        "allowed": True,
        "root": "../../environments",
        "requirements": ["cg_library>=1.0"],
        "packages": [],
        "index": index.url,
        "within_s": 120,
        **other.pop("install", {}),
    }
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
    }
    spec = {"needs": ["torch", module], "env": env, "install": install, "caches": "../../caches"}
    usual = {**spec, "argv": ["{python}", "-c", TELLS.format(module=module)]}
    place = absolute(machine, f"work/{name}/stage-0")
    return world.plan(machine.target(), place, **{**usual, **other})


def told(plan: LinkPlan) -> dict[str, Any]:
    """What the training wrote down of the Python that it ran in."""
    found: dict[str, Any] = json.loads(Path(plan.job_dir, "told.json").read_text())
    return found


def test_what_is_missing_is_installed_once_and_the_next_job_takes_it(
    machine: Machine, world: World, index: Index
) -> None:
    """In an environment of its own on the persistent disk, under the image's own torch."""
    plan = order(world, machine, index, "one")
    daemon = world.run(plan)
    daemon.wait_for("exit", code=0)
    states = [message["state"] for message in daemon.of("install")]
    assert states[0] == "installing"
    assert states[-1] == "installed"
    assert daemon.of("install")[0]["packages"] == ["cg_library"]
    assert daemon.of("probe")[0]["needs"]["missing"] == ["cg_library"]
    first = told(plan)
    environments = machine.home / "work" / "environments"
    assert Path(first["prefix"]).parent == environments
    assert (first["said"], first["torch"]) == ("hello", "2.6.0+cu121")
    assert not (environments / "pip-cache").exists()
    asked = len(index.asked)

    again = order(world, machine, index, "two")
    second = world.run(again)
    second.wait_for("exit", code=0)
    assert not second.of("install")
    assert told(again)["prefix"] == first["prefix"]
    assert len(index.asked) == asked

    (lost,) = Path(first["prefix"]).glob("lib/python*/site-packages/cg_library.py")
    lost.unlink()
    third = order(world, machine, index, "three")
    world.run(third).wait_for("exit", code=0)
    assert told(third)["said"] == "hello"


def test_the_images_torch_is_never_replaced(machine: Machine, world: World, index: Index) -> None:
    """What wants another one is not installed, and pip's own sentence says why."""
    wishes = {"requirements": ["cg_library"], "packages": ["cg_greedy"]}
    daemon = world.run(order(world, machine, index, "one", install=wishes))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "install_failed"
    assert "cg-greedy 1.0 depends on torch>=99" in refused["detail"]
    assert "(constraint) torch==2.6.0+cu121" in refused["detail"]
    assert not any("torch-99.0-py3" in path for path in index.asked)
    assert not list((machine.home / "work" / "environments").glob("*/costguard.json"))
    assert daemon.of("install")[-1]["state"] == "failed"


def test_packages_of_the_users_are_there_for_a_command_of_theirs(
    machine: Machine, world: World, index: Index
) -> None:
    """Also where the engine needs nothing: the environment's Python is the first on PATH."""
    wishes = {"requirements": [], "packages": ["cg_library==1.2.0"]}
    argv = ["python", "-c", TELLS.format(module="cg_library")]
    plan = order(world, machine, index, "one", install=wishes, needs=[], argv=argv)
    world.run(plan).wait_for("exit", code=0)
    assert told(plan)["said"] == "hello"
    assert Path(told(plan)["prefix"]).parent == machine.home / "work" / "environments"


def test_what_the_job_does_not_allow_is_not_installed(
    machine: Machine, world: World, index: Index
) -> None:
    """It is refused with what is missing and what to do."""
    daemon = world.run(order(world, machine, index, "one", install={"allowed": False}))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "missing_modules"
    assert "cg_library" in refused["detail"]
    assert "install = true" in refused["detail"]
    assert not index.asked


def test_an_image_without_torch_gets_none(machine: Machine, world: World, index: Index) -> None:
    """Only whoever made the image knows which build fits its driver."""
    (world.home / "image").mkdir()
    site = world.home / "bare"
    site.mkdir()
    bare = f'#!/bin/sh\nexec {sys.executable} -S "$@"\n'
    for name in ("python3", "python"):
        (site / name).write_text(bare)
        (site / name).chmod(0o755)
    plan = order(world, machine, index, "one", python=str(site / "python3"))
    daemon = world.run(plan)
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "no_torch"
    assert "take an image with PyTorch" in refused["detail"]


def test_an_installation_has_an_end(machine: Machine, world: World, index: Index) -> None:
    """An index that does not answer is waited for as long as was allowed; nothing is left."""
    index.hold.set()
    daemon = world.run(order(world, machine, index, "one", install={"within_s": 1.5}))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "install_timeout"
    assert "2 s allowed" in refused["detail"]
    assert not pips(machine)


def test_a_line_that_breaks_ends_pip_and_the_next_goes_on(
    machine: Machine, world: World, index: Index
) -> None:
    """Half an environment is none: it is made anew, and the run is trained."""
    index.hold.set()
    plan = order(world, machine, index, "one")
    daemon = world.run(plan)
    wait_until(lambda: bool(index.asked), "pip at the index")
    machine.cut()
    wait_until(lambda: "lost" in daemon.states(), "the loss")
    index.hold.clear()
    daemon.wait_for("exit", code=0)
    assert told(plan)["said"] == "hello"
    index.ended.set()
    wait_until(lambda: not pips(machine), "the end of pip")


def test_a_package_that_is_too_old_is_made_new_beside_it(
    machine: Machine, world: World, index: Index
) -> None:
    """The image keeps its own; what is asked for is a version."""
    plan = order(world, machine, index, "one", least={"cg_library": "1.1"})
    put_package(world.home / "old", "cg_library", "1.0.3", "SAID = 'old'\n")
    env = {**plan.spec["env"]}
    # Behind the environment, as an image's site-packages are; PYTHONPATH would be before it.
    base = world.home / "base"
    make_base(base, [world.home / "old"])
    plan = replace(plan, spec={**plan.spec, "env": env, "python": str(base / "bin" / "python3")})
    daemon = world.run(plan)
    daemon.wait_for("exit", code=0)
    assert daemon.of("probe")[0]["needs"]["missing"] == [
        "cg_library (has 1.0.3, needs 1.1 or newer)"
    ]
    assert told(plan)["said"] == "hello"


def make_base(folder: Path, paths: list[Path]) -> None:
    """An image's Python that is a virtual environment itself, with packages on its path."""
    import venv

    venv.create(folder, symlinks=True, system_site_packages=False, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    import pip

    lines = [*map(str, paths), str(Path(pip.__file__).parent.parent)]
    (site / "image.pth").write_text("\n".join(lines))


def pips(machine: Machine) -> list[str]:
    """What pip runs for that machine."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pip" in words and any(str(machine.home).encode() in word for word in words):
            found.append(place.parent.name)
    return found
