"""Which host key an instance must show: pinned for each instance and boot, weakest source last.

1. the platform or the config tells it
2. it was pinned at first use earlier in this boot
3. first use is believed: only where we ourselves created or switched on the instance moments ago
Otherwise nothing is believed, and a person has to compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.store.events import add_event
from costguard.store.models import Instance, Intent

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.daemon.act import Actor
    from costguard.providers.base import SshDetails

# From our start call to the first log-in: as long as platforms take to boot a GPU machine.
FIRST_USE_WITHIN_MS = 20 * 60_000
ON_ALREADY = "it was on already"  # a start call that was not needed is no boot of ours
POWER_KINDS = ("create", "start", "adopt")


def keys_for(
    session: Session, instance: Instance, ssh: SshDetails, now: Moment
) -> tuple[tuple[str, ...], bool]:
    """The keys to insist on; and, where there are none, whether the first one shown is believed."""
    if ssh.host_keys:
        return ssh.host_keys, False
    if instance.host_key:
        return tuple(instance.host_key.splitlines()), False
    return (), _we_started(session, instance.job_id, now)


def unknown_key_text(provider: str, where: str) -> str:
    """Why the line is refused, and what a person can do: compare it, or have us start it."""
    text = f"no host key is known for {where}, and it was not costguard that switched it on: "
    start = "switch it off, and costguard starts it itself"
    if not provider.startswith("ssh."):
        return text + start
    return (
        f"{text}compare the fingerprint that `costguard doctor --provider {provider}` shows with "
        f"the one in the platform's own web terminal, and put the key into [providers.{provider}] "
        f"as host_key; or {start}"
    )


def note_shown_key(actor: Actor) -> None:
    """Pin what was believed at first use, and say so with its fingerprint."""
    shown, instance = actor.memory.shown_key, actor.snap.instance
    if shown is None or instance is None:
        return
    now = actor.now()
    with actor.context.store.write() as session:
        session.get_one(Instance, instance.id).host_key = str(shown["line"])
        text = f"its host key was believed at first use: {shown['fingerprint']}"
        data = {"fingerprint": shown["fingerprint"], "line": shown["line"]}
        add_event(session, actor.job_id, now.utc_ms, "host_key", text, data)
    actor.memory.shown_key = None


def _we_started(session: Session, job_id: int, now: Moment) -> bool:
    """Whether this boot came of a call of ours, moments ago."""
    query = select(Intent).where(Intent.job_id == job_id, Intent.kind.in_(POWER_KINDS))
    last = session.scalars(query.order_by(Intent.id.desc()).limit(1)).first()
    if last is None or last.kind == "adopt" or last.detail == ON_ALREADY:
        return False
    return now.utc_ms - last.created_ms <= FIRST_USE_WITHIN_MS
