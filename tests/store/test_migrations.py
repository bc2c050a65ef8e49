from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

import costguard
from costguard.errors import EXIT_INTERNAL, UserError
from costguard.store.database import engine_for, read_only_session
from costguard.store.migrate import migrations_dir, upgrade
from costguard.store.models import Base, LedgerEntry


def test_every_script_in_the_folder_is_part_of_one_chain() -> None:
    """A script in a folder that nobody looks into would be a schema that never comes."""
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()))
    config.set_main_option("recursive_version_locations", "true")
    scripts = ScriptDirectory.from_config(config)
    known = {revision.path for revision in scripts.walk_revisions()}
    there = {str(path) for path in migrations_dir().glob("versions/**/*.py")}
    assert known == there
    assert len(scripts.get_heads()) == 1


def test_the_rules_of_the_schema_are_those_of_the_models(empty_database: Path) -> None:
    """Checks, keys and references, which a comparison of columns does not look at."""
    plain = create_engine("sqlite://")
    Base.metadata.create_all(plain)
    made, wanted = inspect(engine_for(empty_database, read_only=True)), inspect(plain)
    for table in Base.metadata.tables:
        for rules in ("get_check_constraints", "get_unique_constraints", "get_foreign_keys"):
            found, expected = (
                sorted(map(repr, getattr(side, rules)(table))) for side in (made, wanted)
            )
            assert found == expected, (table, rules)
    plain.dispose()
    assert set(made.get_table_names()) == {*Base.metadata.tables, "alembic_version"}


@pytest.mark.parametrize("table", ["ledger", "commands"])
@pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
def test_what_is_append_only_is_kept_so_by_the_database(
    empty_database: Path, table: str, verb: str
) -> None:
    """Whoever opens the file, with or without our code."""
    with closing(sqlite3.connect(empty_database)) as plain:
        triggers = plain.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
        ).fetchall()
    assert (f"{table}_no_{verb.lower()}",) in triggers


def test_a_command_that_was_answered_cannot_be_rewritten(
    empty_database: Path, tmp_path: Path
) -> None:
    """The same key gets the same answer for ever."""
    path = tmp_path / "costguard.db"
    path.write_bytes(empty_database.read_bytes())
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("INSERT INTO commands VALUES (1, 'k', 'submit', '{}', 0, '{}')")
        for change in ("UPDATE commands SET result_json = 'x'", "DELETE FROM commands"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                plain.execute(change)


def test_a_path_with_spaces_and_percent_signs_is_a_path_like_any_other(tmp_path: Path) -> None:
    """Homes are named by people, and so are the folders that programs are installed in."""
    root = tmp_path / "my own, programs 100%"
    shutil.copytree(migrations_dir(), root / "migrations")
    shutil.copytree(Path(costguard.__file__).parent, root / "costguard")
    path = root / "home of mine %20?#" / "costguard.db"
    path.parent.mkdir()
    subprocess.run(
        [sys.executable, "-m", "costguard.store.migrate", str(path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
    )
    with read_only_session(path) as session:
        assert session.query(LedgerEntry).count() == 0


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    """As one that was touched, or whose making was cut off, would be."""
    path = tmp_path / "costguard.db"
    path.touch()
    upgrade(path)
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("SELECT count(*) FROM ledger").fetchone() == (0,)
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("kind", ["junk", "directory"])
def test_what_cannot_be_upgraded_is_one_clear_error_and_is_left_alone(
    tmp_path: Path, kind: str
) -> None:
    """What, where, what to do; the file is still what it was."""
    path = tmp_path / "costguard.db"
    junk = b"this is somebody's letter, and no database; it is to be left alone. " * 20
    if kind == "junk":
        path.write_bytes(junk)
    else:
        path.mkdir()
    with pytest.raises(UserError) as caught:
        upgrade(path)
    assert caught.value.where == str(path)
    assert caught.value.exit_code == EXIT_INTERNAL
    why = "file is not a database" if kind == "junk" else "unable to open database file"
    assert caught.value.what.endswith(why)
    assert kind == "directory" or path.read_bytes() == junk


def test_an_upgrade_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    """One transaction a revision: a table that is in the way leaves no others behind."""
    path = tmp_path / "costguard.db"
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE telemetry (x)")
    with pytest.raises(UserError, match="telemetry already exists"):
        upgrade(path)
    with closing(sqlite3.connect(path)) as plain:
        tables = plain.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert tables == [("telemetry",)]


def test_the_books_cannot_be_downgraded(empty_database: Path) -> None:
    """A backup is the way back."""
    for path in migrations_dir().glob("versions/**/*.py"):
        scope: dict[str, object] = {}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        with pytest.raises(RuntimeError, match="backup"):
            scope["downgrade"]()  # type: ignore[operator]  # a function of the script
