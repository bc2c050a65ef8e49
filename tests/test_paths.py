from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from costguard import paths
from costguard.errors import UserError


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COSTGUARD_HOME is taken as it stands, made absolute, without following links."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSTGUARD_HOME", "some/home")
    assert paths.home() == tmp_path / "some" / "home"
    assert paths.config_path() == tmp_path / "some" / "home" / "config.toml"


def test_without_it_the_platforms_usual_place_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset or empty COSTGUARD_HOME means the user's data directory."""
    monkeypatch.setenv("COSTGUARD_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert paths.home().is_relative_to(tmp_path)
    assert paths.home().name == "costguard"


def test_ensure_home_makes_a_private_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that was not there exists afterwards, for its owner alone."""
    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / "a" / "b"))
    place = paths.ensure_home()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert list(place.iterdir()) == []


def test_a_home_that_others_may_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group or world bits on the home are an error that says which chmod mends it."""
    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / "home"))
    paths.ensure_home().chmod(0o750)
    with pytest.raises(UserError, match="mode 0750") as caught:
        paths.ensure_home()
    assert caught.value.code == "home_not_private"
    assert caught.value.hint == f"chmod 700 {tmp_path / 'home'}"


def test_a_home_of_another_account_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that somebody else owns is not used, whatever its mode."""
    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / "home"))
    paths.ensure_home()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(UserError, match="another account") as caught:
        paths.ensure_home()
    assert caught.value.code == "home_not_private"


def test_a_home_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the home's place gives one message with that path."""
    (tmp_path / "home").write_text("x")
    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError) as caught:
        paths.ensure_home()
    assert caught.value.code == "home_unusable"
    assert caught.value.where == str(tmp_path / "home")


def test_a_read_only_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home is proven by a write: permission bits alone would not show a read-only disk."""

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match="Read-only file system") as caught:
        paths.ensure_home()
    assert caught.value.exit_code == 7


def test_the_socket_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of usual depth holds its own socket."""
    monkeypatch.setenv("COSTGUARD_HOME", "/tmp/h")
    assert paths.socket_path() == Path("/tmp/h/daemon.sock")


def test_a_deep_home_gets_a_short_private_socket_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 100 bytes the socket moves to a directory of ours, keyed by home and user."""
    deep = tmp_path / ("d" * 90) / "home"
    monkeypatch.setattr(paths, "SOCKET_FALLBACK_ROOT", tmp_path)
    monkeypatch.setenv("COSTGUARD_HOME", str(deep))
    paths.ensure_home()
    first = paths.socket_path()
    assert first.parent.parent == tmp_path
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("COSTGUARD_HOME", str(deep) + "2")
    assert paths.socket_path() != first


def test_a_socket_directory_that_is_not_ours_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could write there could answer in the daemon's place."""
    monkeypatch.setattr(paths, "SOCKET_FALLBACK_ROOT", tmp_path)
    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / ("d" * 100)))
    paths.ensure_home()
    paths.socket_path().parent.chmod(0o777)
    with pytest.raises(UserError, match="other accounts"):
        paths.socket_path()


def test_a_link_in_place_of_the_socket_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symbolic link there is somebody's trap, even if it leads to a directory of ours."""
    monkeypatch.setattr(paths, "SOCKET_FALLBACK_ROOT", tmp_path)
    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / ("d" * 100)))
    paths.ensure_home()
    directory = paths.socket_path().parent
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="must be a directory"):
        paths.socket_path()
