from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from costguard.jobfile import load_job
from tests.e2e.house import House, house
from tests.remote.package_index import Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

JOB = r"""[job]
name = "{name}"
budget_yuan = 2
[instance]
provider = "local"
packages = ["cg_library"]
pip_index = "{index}"
{more}
[training]
engine = "command"
command = ["python", "-c", "import cg_library; print('it 1 of 2, loss 3.5\\nit 2 of 2, loss 3.0')"]
progress_pattern = 'it (?P<step>\d+) of (?P<total_steps>\d+), loss (?P<loss>\S+)'
[advanced]
lease = "60s"
save_grace = "2s"
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """A package index with one library."""
    made = Index(tmp_path / "index")
    made.add("cg_library", "1.2.0")
    yield made
    made.close()


def submit(at: House, index: Index, name: str, more: str = "") -> None:
    """Submit a command that needs the library."""
    path = at.home / f"{name}.toml"
    path.write_text(JOB.format(name=name, index=index.url, more=more))
    at.ask("submit", spec=load_job(path).to_json(), key=name)


def test_what_a_job_names_is_installed_and_what_it_forbids_ends_it(index: Index) -> None:
    """Over the local platform's real SSH: a phase of its own, then the training; or the reason.

    The command tells its progress by its output alone.
    """
    with house() as at:
        at.start_daemon()
        submit(at, index, "job")
        at.wait(lambda: at.row()["phase"] == "install")
        assert at.row()["state"] == "preparing"
        row = at.wait_final()
        assert row["state"] == "finished", at.ask("explain", job="job")
        assert (row["step"], row["total_steps"], row["loss"]) == (2, 2, 3.0)
        kinds = at.kinds()
        order = [kinds.index(kind) for kind in ("installing", "installed", "training_started")]
        assert order == sorted(order)
        assert "first_contact" in kinds
        phases = {line["phase"] for line in at.ask("report", by="phase")["rows"]}
        assert "install" in phases

        submit(at, index, "other", "install = false")
        at.wait(lambda: at.ask("status", job="other")["jobs"][0]["state"] == "paused")
        (verdict,) = at.ask("explain", job="other")["verdicts"]
        assert verdict["guard"] == "platform"
        assert "cg_library" in verdict["text"]
        assert "install = true" in json.dumps(verdict)
