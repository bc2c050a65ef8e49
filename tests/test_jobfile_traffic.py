"""What a job file may not send away, and how fast its results may come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.test_jobfile import COMMAND_JOB, TRAINER_JOB, folder, load, refusal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["folder"]


@pytest.mark.parametrize("name", ["autodl.token", "mine.secret", "client_key", "link to it"])
def test_no_secret_of_ours_is_uploaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever folder it lies in, whatever the config calls it, and by a link's name too."""
    home = folder / "data" / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("COSTGUARD_HOME", str(home))
    (home / "config.toml").write_text('[providers.runpod]\ntoken_file = "mine.secret"\n')
    assert load(folder, COMMAND_JOB).runs[0].uploads
    path = home / name
    if name == "link to it":
        (home / "vast.token").write_text("s3cr3t")
        path = folder / "data" / name
        path.symlink_to(home / "vast.token")
    else:
        path.write_text("s3cr3t")
    error = refusal(folder, COMMAND_JOB)
    assert error.code == "secret_in_upload"
    assert "none of yours goes to a rented machine" in error.what


def test_what_comes_home_may_be_held_to_a_pace(folder: Path) -> None:
    """As a home line is sold: in megabits."""
    held = TRAINER_JOB.replace('pull_to = "out/"', 'pull_to = "out/"\nmax_mbit_per_s = 20')
    assert load(folder, held).pull_bytes_per_s == 2_500_000
    assert load(folder, TRAINER_JOB).pull_bytes_per_s is None
