"""Where everything of ours lives: one home, readable by its owner alone, and the names in it.

Two homes never see each other. `COSTGUARD_HOME` names one; otherwise the platform's usual place
for a user's data is taken.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from costguard.errors import UserError
from costguard.lang import _

PRIVATE_MODE = 0o700
OTHERS_MASK = 0o077

# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing NUL.
SOCKET_PATH_MAX_BYTES = 100
# Not TMPDIR: it may itself be deep, and it may differ between the daemon's shell and ours.
SOCKET_FALLBACK_ROOT = Path("/tmp")  # noqa: S108  (the directory in it is 0700 and verified)


def home() -> Path:
    """The absolute path of this user's costguard home; it need not exist yet."""
    named = os.environ.get("COSTGUARD_HOME", "").strip()
    if named:
        return Path(os.path.abspath(Path(named).expanduser()))  # noqa: PTH100  (keeps symlinks)
    from platformdirs import user_data_path  # noqa: PLC0415  (10 ms that a named home need not pay)

    return user_data_path("costguard", appauthor=False)


def ensure_home() -> Path:
    """The home, made (0700) if there was none and proven private and writable.

    Raises UserError otherwise: a ledger that another account can change is no ledger, and a
    daemon that cannot write must say so before it rents anything.
    """
    import tempfile  # noqa: PLC0415  (it loads OpenSSL: 5 MiB that `status` need not pay)

    place = home()
    try:
        place.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        _require_private(place)
        with tempfile.TemporaryFile(dir=place):
            pass  # a real write: permission bits say nothing about a read-only or full disk
        _ensure_socket_dir(place)
    except OSError as error:
        raise UserError(
            "home_unusable",
            _("the costguard home cannot be written: {why}").format(why=error.strerror or error),
            str(place),
            _("make it writable, or name another one in COSTGUARD_HOME"),
        ) from error
    return place


def config_path() -> Path:
    """The settings, written by hand."""
    return home() / "config.toml"


def database_path() -> Path:
    """The database, ledger included."""
    return home() / "costguard.db"


def lock_path() -> Path:
    """The file that the daemon of this home holds locked: one daemon per home."""
    return home() / "daemon.lock"


def pid_path() -> Path:
    """The daemon's process id, for people and service managers."""
    return home() / "daemon.pid"


def log_path() -> Path:
    """What the daemon said."""
    return home() / "daemon.log"


def client_key_path() -> Path:
    """The SSH key that costguard shows to its instances."""
    return home() / "client_key"


def socket_path() -> Path:
    """The daemon's command socket, in a short private directory elsewhere if the home is too deep.

    Raises UserError when that directory exists but is not ours alone: whoever owns it could
    answer in the daemon's place. `ensure_home` makes it.
    """
    place = home()
    direct = place / "daemon.sock"
    if len(os.fsencode(direct)) <= SOCKET_PATH_MAX_BYTES:
        return direct
    directory = _socket_dir(place)
    if os.path.lexists(directory):
        _require_private(directory)
    return directory / "daemon.sock"


def _socket_dir(place: Path) -> Path:
    import hashlib  # noqa: PLC0415  (as above)

    key = hashlib.sha256(f"{os.getuid()}\0{place}".encode("utf-8", "surrogateescape"))
    return SOCKET_FALLBACK_ROOT / f"costguard-{os.getuid()}-{key.hexdigest()[:16]}"


def _ensure_socket_dir(place: Path) -> None:
    if len(os.fsencode(place / "daemon.sock")) > SOCKET_PATH_MAX_BYTES:
        directory = _socket_dir(place)
        directory.mkdir(mode=PRIVATE_MODE, exist_ok=True)
        _require_private(directory)


def _require_private(directory: Path) -> None:
    """Nothing if `directory` is a directory of ours that no one else may enter; else UserError."""
    status = directory.lstat()
    if stat.S_ISLNK(status.st_mode):
        status = directory.stat() if directory == home() else status
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(
            "home_unusable",
            _("this must be a directory, and is none"),
            str(directory),
            _("move it away, or name another home in COSTGUARD_HOME"),
        )
    if status.st_uid != os.getuid():
        raise UserError(
            "home_not_private",
            _("this directory belongs to another account (uid {uid})").format(uid=status.st_uid),
            str(directory),
            _("name a home of your own in COSTGUARD_HOME"),
        )
    if status.st_mode & OTHERS_MASK:
        raise UserError(
            "home_not_private",
            _("other accounts may look into this directory (mode {mode})").format(
                mode=f"{stat.S_IMODE(status.st_mode):04o}"
            ),
            str(directory),
            f"chmod 700 {directory}",
        )
