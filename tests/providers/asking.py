"""What the conformance tests ask of an adapter, and what hangs on the errors that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.providers.rigs import NOW, RIGS

if TYPE_CHECKING:
    from collections.abc import Callable

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
