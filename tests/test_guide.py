from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from costguard.cli.app import app
from costguard.jobfile import load_job
from costguard.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
GUIDES = sorted(ROOT.glob("deploy/guide*.md"))
PAGES = [*GUIDES, ROOT / "README.md", ROOT / "README.zh-CN.md"]
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)
# As code or behind a prompt; a sentence may say of costguard itself what it does.
COMMAND = re.compile(r"(?:`|\$ (?:\.venv/bin/)?)costguard ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")
ROW = '{"instruction": "问题{n}", "input": "", "output": "回答{n}"}\n'


def blocks(page: Path) -> list[str]:
    """The page's TOML, set in from a list's item or not."""
    text = re.sub(r"^ {3}", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return TOML.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_page_is_there(page: Path) -> None:
    """Nobody types a command out of the guide that does not exist."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, second in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert name in commands, f"{page.name}: costguard {name}"
        nested = getattr(commands[name], "commands", None)
        if nested is not None and second:
            assert second in nested, f"{page.name}: costguard {name} {second}"


def test_the_guides_job_and_config_are_taken_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied out of the page, with a data set beside it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("COSTGUARD_HOME", str(home))
    (page,) = [page for page in GUIDES if "zh-CN" in page.name]
    found = blocks(page)
    (job,) = [text for text in found if "[job]" in text]
    (home / "config.toml").write_text(
        "\n".join(text for text in found if "[job]" not in text), encoding="utf-8"
    )
    settings = load_settings(home)
    assert set(settings.providers) == {"compshare", "autodl"}
    assert list(settings.ssh_boxes) == ["box1"]
    (tmp_path / "data").mkdir()
    rows = "".join(ROW.replace("{n}", str(n)) for n in range(600))
    (tmp_path / "data" / "train.masked.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "job.toml").write_text(job, encoding="utf-8")
    spec = load_job(tmp_path / "job.toml")
    assert [stage.max_samples for stage in spec.stages] == [100, 500, None]
