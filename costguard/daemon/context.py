"""What a pass works with: everything from outside comes in through here, so it can be swapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from costguard.remote.link import Link, LinkPlan

if TYPE_CHECKING:
    from pathlib import Path
    from zoneinfo import ZoneInfo

    from costguard.daemon.clock import Clock
    from costguard.providers.base import Provider
    from costguard.store.database import Store
    from costguard.store.ledger import Caps

LinkFactory = Callable[[LinkPlan, Callable[[], None]], Link]


class Notifier(Protocol):
    """Where loud words go beside the database, which may be the very thing that has failed."""

    def __call__(self, level: str, job: str, text: str) -> None:
        """Say `text` at `level` (`info`, `warning`, `alarm`) about `job`.

        Never raises and never waits on a network: it is called where a stop call comes next.
        """
        ...


@dataclass(frozen=True)
class Context:
    """The daemon's surroundings, wired once in `app`, otherwise in the simulator and the tests."""

    store: Store
    clock: Clock
    provider: Callable[[str], Provider]
    link: LinkFactory
    notify: Notifier
    caps: Callable[[], Caps]
    zone: ZoneInfo
    installation: str
    client_key_path: Path
    client_public_key: str
    accounts: Callable[[], tuple[str, ...]] = tuple  # the platforms that the config names
    stops_orphans: Callable[[], bool] = bool  # whether what no job here explains is stopped
    owed: dict[str, int] = field(default_factory=dict)  # accounts to be listed soon, so many times

    @property
    def tag_prefix(self) -> str:
        """The beginning of every tag of this installation's instances."""
        return f"costguard-{self.installation}-"

    def owe(self, account: str, looks: int = 1) -> None:
        """Have the account's instances listed at least so many times more before long."""
        self.owed[account] = max(self.owed.get(account, 0), looks)
