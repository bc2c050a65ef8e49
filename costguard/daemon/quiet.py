"""How long a platform that has had too many calls is left in peace.

What is only asked (power state, lists) waits for as long as the platform says, up to the longest
pause between two stop calls: a platform that says an hour must not blind us for one. The stop call
itself never waits here: its back-off is `core.decide`'s own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.core.decide import STOP_RETRY_MS
from costguard.core.moment import ms_until

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.daemon.memory import JobMemory
    from costguard.providers.base import ProviderError

QUIET_MAX_MS = STOP_RETRY_MS[-1]


def told_ms(error: ProviderError, least_ms: int = 0) -> int:
    """For how long the platform wants to be left alone: what it says, within reason."""
    told_s = getattr(error, "retry_after_s", None)
    return least_ms if told_s is None else min(max(int(told_s * 1_000), least_ms), QUIET_MAX_MS)


def note_quiet(memory: JobMemory, error: ProviderError, now: Moment) -> None:
    """Keep what an error says of when to ask again."""
    wait_ms = told_ms(error)
    if wait_ms > 0:
        memory.quiet_until = now.plus_ms(wait_ms)


def quiet_ms(memory: JobMemory, now: Moment) -> int:
    """How long nothing is to be asked yet; 0 where it may be."""
    return 0 if memory.quiet_until is None else ms_until(memory.quiet_until, now)
