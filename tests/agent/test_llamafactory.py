from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.agent.llamafactory import find

if TYPE_CHECKING:
    import pytest

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
