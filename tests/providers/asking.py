"""What the conformance tests ask of an adapter, and what hangs on the errors that come back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from costguard.providers.aws import Aws
from costguard.providers.local import LocalProvider
from tests.providers.rigs import NOW, RIGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from costguard.providers.base import InstanceView
    from tests.providers.rigs import Rig

every = pytest.mark.parametrize("rig", sorted(RIGS), indirect=True)


def rent(rig: Rig, **changes: object) -> InstanceView:
    """An instance that runs."""
    made = rig.account.create(rig.request(**changes), NOW)
    rig.cloud.settle()
    return rig.account.read(made.id, NOW)


def call(rig: Rig, route: str, instance_id: str = "") -> object:
    """Make the adapter take that route."""
    account = rig.account
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: account.read(instance_id, NOW),
        "list": lambda: account.list_tagged("costguard-", NOW),
        "create": lambda: account.create(rig.request(), NOW),
        "start": lambda: account.start(instance_id),
        "stop": lambda: account.stop(instance_id),
        "release": lambda: account.release(instance_id),
        "timer": lambda: account.arm_timer(instance_id, NOW.utc_ms + 900_000),
        "offers": lambda: account.quote(rig.gpu),
        "price": lambda: account.price(rig.request()),
        "balance": account.balance_micros,
    }
    return calls[route]()


@contextlib.contextmanager
def hasty(rig: Rig, kind: str) -> Iterator[None]:
    """For a fault of kind `slow`, an adapter that soon gives up waiting."""
    account: Any = rig.account
    if kind != "slow":
        yield
        return
    if isinstance(account, Aws):
        wire = account._wire
        before = wire._settings
        wire._settings = {**before, "read_timeout_s": "0.4"}
        wire._clients.clear()
        yield
        wire._settings = before
        wire._clients.clear()
        return
    holder = account if isinstance(account, LocalProvider) else account._wire
    usual = holder._timeout
    holder._timeout = (5.0, 0.2)
    yield
    holder._timeout = usual


def chain_of(error: BaseException) -> str:
    """Everything that hangs on an error and could be written down with it."""
    found, queue = [], [error]
    seen: set[int] = set()
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found.append(f"{one!r} {one} {vars(one)}")
        for name in ("request", "response"):
            part = getattr(one, name, None)
            found.append(str(vars(part)) if part is not None else "")
        queue += [e for e in (one.__cause__, one.__context__) if e is not None]
    return " ".join(found)
