from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.store.restored import (
    clear_if_listed,
    is_restored,
    mark_restored,
    may_grant,
    note_listed,
    restored_at_ms,
    unlisted,
)
from tests.store.rows import add_interval, add_job

if TYPE_CHECKING:
    from costguard.store.database import Store


def test_an_ordinary_database_grants_whatever_was_listed(store: Store) -> None:
    """It was never put back."""
    with store.write() as session:
        assert may_grant(session, ["autodl"])
        assert not is_restored(session)
        assert restored_at_ms(session) is None
        note_listed(session, "autodl")
        assert clear_if_listed(session, ["autodl"])


def test_a_restored_one_grants_nothing_until_every_account_was_listed(store: Store) -> None:
    """One that cannot be listed keeps all grants back."""
    accounts = ["autodl", "local"]
    with store.write() as session:
        mark_restored(session, 5)
        assert not may_grant(session, accounts)
        note_listed(session, "autodl")
        note_listed(session, "autodl")
        assert unlisted(session, accounts) == {"local"}
        assert not may_grant(session, accounts)
        assert not clear_if_listed(session, accounts)
        note_listed(session, "local")
        assert may_grant(session, accounts)


def test_accounts_that_only_the_books_know_have_to_be_listed_too(store: Store) -> None:
    """The platform of an instance, and of a job that never came to have one."""
    with store.write() as session:
        add_interval(session, add_job(session))  # on `local`
        add_job(session, "y").spec_json = '{"instance": {"provider": "vast"}}'
        session.flush()
        mark_restored(session, 5)
        assert unlisted(session, []) == {"local", "vast"}
        assert not may_grant(session, [])


def test_an_account_that_the_config_gains_later_has_to_be_listed(store: Store) -> None:
    """As long as the restored state lasts."""
    with store.write() as session:
        mark_restored(session, 5)
        note_listed(session, "local")
        assert may_grant(session, ["local"])
        assert not may_grant(session, ["local", "runpod"])


def test_what_was_listed_survives_a_restart(store: Store) -> None:
    """It stands in the database, as the mark does."""
    with store.write() as session:
        mark_restored(session, 5)
        note_listed(session, "local")
    with store.read() as session:
        assert restored_at_ms(session) == 5
        assert unlisted(session, ["local", "vast"]) == {"vast"}


def test_the_state_ends_once_and_for_all(store: Store) -> None:
    """An account that comes later then is an ordinary one."""
    with store.write() as session:
        mark_restored(session, 5)
        note_listed(session, "local")
        assert clear_if_listed(session, ["local"])
        assert not is_restored(session)
        assert may_grant(session, ["vast"])


def test_a_second_restore_begins_anew(store: Store) -> None:
    """What was listed before it says nothing of what was rented since."""
    with store.write() as session:
        mark_restored(session, 5)
        note_listed(session, "local")
        mark_restored(session, 9)
        assert not may_grant(session, ["local"])
        assert restored_at_ms(session) == 9
