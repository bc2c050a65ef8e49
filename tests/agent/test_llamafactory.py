from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from costguard.agent import llamafactory
from costguard.agent.environment import choose
from costguard.agent.interpreters import Interpreter
from costguard.agent.llamafactory import command, find, python_behind
from costguard.agent.spec import parse_spec
from tests.agent.test_contact import install as put_package

if TYPE_CHECKING:
    from tests.agent.harness import Job


def script(path: Path, text: str = "#!/bin/sh\nexit 0\n") -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_its_command_is_taken_first(tmp_path: Path) -> None:
    """On PATH, or beside the Python that has the modules."""
    cli = script(tmp_path / "bin" / "llamafactory-cli")
    python = str(tmp_path / "env" / "python3")
    assert find(python, {"PATH": str(cli.parent)}, []) == [str(cli), "train"]
    beside = script(tmp_path / "env" / "llamafactory-cli")
    assert find(python, {"PATH": "/nowhere"}, []) == [str(beside), "train"]


def test_a_checkout_is_started_by_its_script(tmp_path: Path) -> None:
    """The newer script before the older; the first place that has one."""
    old, new = tmp_path / "old", tmp_path / "new"
    script(old / "src" / "train_bash.py")
    script(new / "src" / "train_bash.py")
    script(new / "src" / "train.py")
    roots = [str(tmp_path / "nothing"), str(old), str(new)]
    python, env = str(tmp_path / "python3"), {"PATH": "/nowhere"}
    assert find(python, env, roots) == [python, str(old / "src" / "train_bash.py")]
    assert find(python, env, roots[2:]) == [python, str(new / "src" / "train.py")]
    assert find(python, env, roots[:1]) is None
    assert find(None, env, roots) is None


def test_the_chosen_python_has_the_first_word(tmp_path: Path) -> None:
    """Its own command, its own package, and only then what is on PATH or in a checkout."""
    other = script(tmp_path / "bin" / "llamafactory-cli")
    env = {"PATH": str(other.parent)}
    python = tmp_path / "env" / "python3"
    has = Interpreter(str(python), "3.11", {"llamafactory": "0.9.5"})
    lacks = Interpreter(str(python), "3.11", {"llamafactory": None})
    assert command(lacks, env, []) == [str(other), "train"]
    found = command(has, env, [])
    assert found is not None
    assert (found[:2], found[3]) == ([str(python), "-c"], "train")
    own = script(tmp_path / "env" / "llamafactory-cli")
    assert command(has, env, []) == [str(own), "train"]


def test_the_python_behind_its_command_is_found(tmp_path: Path) -> None:
    """Images keep it in an environment that no `python3` leads to."""
    env = {"PATH": str(tmp_path)}
    assert python_behind(env) is None
    cli = script(tmp_path / "llamafactory-cli", f"#!{sys.executable}\nimport sys\n")
    assert python_behind(env) == sys.executable
    script(cli, "#!/bin/sh\nexec conda run llamafactory-cli\n")
    assert python_behind(env) is None
    script(cli, "#!/no/such/python3\n")
    assert python_behind(env) is None


@pytest.mark.parametrize("kind", ["package", "checkout", "nothing"])
def test_a_preset_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A package, or an old checkout beside what it needs; else the package is missing."""
    site, roots = tmp_path / "site", tmp_path / "root"
    site.mkdir()
    put_package(site, "torch", "2.6.0")
    if kind == "package":
        put_package(site, "llamafactory", "0.9.5")
    if kind == "checkout":
        script(roots / "src" / "train_bash.py")
    monkeypatch.setattr(llamafactory, "ROOTS", [str(roots)])
    env = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(site)}
    order = {"run_id": "r", "argv": ["{llamafactory}"], "needs": ["torch", "llamafactory"]}
    found = choose(parse_spec(order), env, tmp_path)
    assert (found.chosen is None) is (kind == "nothing")
    assert found.missing == (["llamafactory"] if kind == "nothing" else [])


def test_a_folder_of_another_accounts_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many images log in as `ubuntu`, who may not look into /root: that is no error."""
    here = script(tmp_path / "here" / "src" / "train.py")
    is_file = Path.is_file

    def hidden(path: Path) -> bool:
        if path.is_relative_to("/root"):
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", hidden)
    python, roots = str(tmp_path / "python3"), ["/root/LLaMA-Factory", str(tmp_path / "here")]
    assert find(python, {"PATH": "/nowhere"}, roots) == [python, str(here)]


def test_an_order_is_started_with_what_the_image_brings(job: Job, tmp_path: Path) -> None:
    """The mark becomes the command; hostile flags stay single words."""
    echo = "import json, sys; open('flags', 'w').write(json.dumps(sys.argv[1:]))"
    script(tmp_path / "bin" / "llamafactory-cli", f"#!{sys.executable}\n{echo}\n")
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    flags = ["--stage", "sft", "--dataset", "$(touch pwned) 'x'\n线"]
    job.order(argv=["{llamafactory}", *flags], env={"PATH": path})
    probed = json.loads(job.command("probe", f"--dir={job.directory}").stdout)
    assert probed["llamafactory"] == [str(tmp_path / "bin" / "llamafactory-cli"), "train"]
    job.start()
    reader = job.attach()
    reader.lease()
    reader.wait_for("exit", code=0)
    assert json.loads((job.directory / "flags").read_text()) == ["train", *flags]
    assert not list(job.directory.rglob("pwned"))


def test_without_one_nothing_is_started_and_it_is_said(job: Job, tmp_path: Path) -> None:
    """Before a lease is used."""
    job.order(argv=["{llamafactory}"], env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    answer = job.start()
    assert "no LLaMA-Factory here" in answer["error"]["what"]
