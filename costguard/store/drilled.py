"""What a paid drill has proven of an account: that its stop timer fires, and how late it did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from costguard.store.models import Meta

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

EMBEDDED = "local"  # its timer fires in this project's own tests, again and again


@dataclass(frozen=True, slots=True)
class Proof:
    """The last drill that saw the timer stop an instance."""

    at_ms: int
    late_ms: int


def keep_proof(session: Session, account: str, proof: Proof) -> None:
    """Note it; an earlier one gives way."""
    session.merge(Meta(key=_key(account), value=json.dumps(asdict(proof))))


def proof_of(session: Session, account: str) -> Proof | None:
    """The account's proof; None where no drill has shown one."""
    row = session.get(Meta, _key(account))
    return None if row is None else Proof(**json.loads(row.value))


def timer_fires(session: Session, account: str) -> bool:
    """Whether anybody has seen a stop timer of this account stop an instance."""
    return account == EMBEDDED or proof_of(session, account) is not None


def _key(account: str) -> str:
    return f"drill:{account}"
