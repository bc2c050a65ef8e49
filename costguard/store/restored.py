"""A database that was put back from a backup: it may have missed rentals, so it grants nothing yet.

What was rented between the backup and its restore is known to the platforms alone. Until every
account has been listed, and what was found is under guard, money that seems free may be spent.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.store.models import Instance, Job, Meta

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

KEY = "restored"


def mark_restored(session: Session, at_ms: int) -> None:
    """From now on nothing is granted until every account was listed."""
    session.merge(Meta(key=KEY, value=json.dumps({"at_ms": at_ms, "listed": []})))


def is_restored(session: Session) -> bool:
    """Whether this database was put back and not every account has been listed since."""
    return session.get(Meta, KEY) is not None


def restored_at_ms(session: Session) -> int | None:
    """When it was put back; None for a database that was not, or is in the clear again."""
    row = session.get(Meta, KEY)
    return None if row is None else int(_facts(row)["at_ms"])


def note_listed(session: Session, provider: str) -> None:
    """`provider` was listed in full, and what it listed is under guard.

    To be called in a transaction after that of the last instance that was found there.
    """
    row = session.get(Meta, KEY)
    if row is None:
        return
    facts = _facts(row)
    facts["listed"] = sorted({*facts["listed"], provider})
    row.value = json.dumps(facts)


def unlisted(session: Session, providers: Iterable[str]) -> set[str]:
    """Which accounts have to be listed yet: of `providers`, and of all that the books know of.

    `providers` are those that the config has a token for: the database may be older than they.
    """
    row = session.get(Meta, KEY)
    if row is None:
        return set()
    return {*providers, *_known(session)} - set(_facts(row)["listed"])


def may_grant(session: Session, providers: Iterable[str]) -> bool:
    """Whether a lease may be granted: always, but for a restored database with unlisted accounts.

    One account that cannot be listed keeps all grants back: what runs there counts against the
    caps of all.
    """
    return not unlisted(session, providers)


def clear_if_listed(session: Session, providers: Iterable[str]) -> bool:
    """End the restored state once every account was listed; whether it has ended."""
    row = session.get(Meta, KEY)
    if row is None:
        return True
    if unlisted(session, providers):
        return False
    session.delete(row)
    session.flush()
    return True


def _known(session: Session) -> set[str]:
    """Every platform that an instance or a job of these books is on."""
    named = set(session.scalars(select(Instance.provider).distinct()))
    for text in session.scalars(select(Job.spec_json).distinct()):
        spec: dict[str, Any] = json.loads(text)
        named.add(spec.get("instance", {}).get("provider"))
    return named - {None}


def _facts(row: Meta) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(row.value)
    return facts
