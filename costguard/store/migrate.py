"""Bring a database to the newest schema, in a process of its own.

Alembic is needed once per start and weighs tens of MiB; a child process gives them back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from costguard.errors import EXIT_INTERNAL, UserError

# The exception's own line; below it SQLAlchemy prints the statement and a link.
_REASON = re.compile(r"^[\w.]+: (.+)$", re.MULTILINE)


def migrations_dir() -> Path:
    """Where the scripts are: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def upgrade(database: Path) -> None:
    """Upgrade `database` to the newest revision, creating the file if there is none.

    Raises UserError with what Alembic said when that is not possible.
    """
    done = subprocess.run(
        [sys.executable, "-m", "costguard.store.migrate", str(database)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = _REASON.findall(done.stderr) or ["no reason given"]
        raise UserError(
            "database",
            f"the database could not be opened or upgraded: {said[-1]}",
            str(database),
            "check free space and permissions of that folder; nothing was changed",
            EXIT_INTERNAL,
        )


def _main() -> None:
    from alembic import command  # noqa: PLC0415  (only this child process pays for it)
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    # Not `version_locations`: that would be split at every space of the path.
    config.set_main_option("recursive_version_locations", "true")
    config.attributes["database"] = Path(sys.argv[1])
    command.upgrade(config, "head")


if __name__ == "__main__":
    _main()
