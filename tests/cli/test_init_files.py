from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from costguard.cli.init_files import SECRET_MODE, NewFile, write_all
from costguard.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder, the home beside it."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def test_every_file_is_put_in_place_with_its_mode(place: Path) -> None:
    """And nothing is left beside them."""
    secret, job = place / "home" / "x.token", place / "job.toml"
    write_all([NewFile(secret, "t\n", SECRET_MODE), NewFile(job, "# 任务\n")])
    assert secret.read_text() == "t\n"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert job.read_text(encoding="utf-8") == "# 任务\n"
    assert sorted(place.rglob("*")) == [place / "home", secret, job]


def test_a_file_that_is_there_is_not_overwritten_and_the_others_are_taken_back(
    place: Path,
) -> None:
    """All or none."""
    there = place / "job.toml"
    there.write_text("mine")
    with pytest.raises(UserError) as refused:
        write_all([NewFile(place / "a", "1"), NewFile(there, "2"), NewFile(place / "b", "3")])
    assert refused.value.code == "exists"
    assert refused.value.where == str(there)
    assert there.read_text() == "mine"
    assert [*place.iterdir()] == [there]


def test_an_interruption_half_way_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the second file and the third: a replaced one has its old text again."""
    old = place / "config.toml"
    old.write_text("old")
    link, calls = os.link, []

    def interrupted(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        link(*args)

    monkeypatch.setattr(os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_all(
            [
                NewFile(place / "a", "1"),
                NewFile(old, "new", replaces="old"),
                NewFile(place / "b", "3"),
            ]
        )
    assert old.read_text() == "old"
    assert [*place.iterdir()] == [old]


def test_a_place_that_cannot_be_written_is_said(place: Path) -> None:
    """With why, and nothing is written."""
    (place / "file").touch()
    with pytest.raises(UserError) as refused:
        write_all([NewFile(place / "a", "1"), NewFile(place / "file" / "x", "2")])
    assert refused.value.code == "not_written"
    assert not (place / "a").exists()
