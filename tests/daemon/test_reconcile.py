from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.core.reconcile import LOW_BILL_AFTER_MS
from costguard.providers.base import Unclear
from costguard.store.database import Store
from costguard.store.ledger import Caps, accounts
from tests.daemon.world import YUAN, World, spec_of

if TYPE_CHECKING:
    from costguard.core.lease import Account
    from tests.daemon.fake_cloud import FakeCloud

EXTRA = 3 * YUAN


def bill_more(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    """The platform's bill says so much more than its meter."""
    true = type(cloud).bill_micros
    monkeypatch.setattr(cloud, "bill_micros", lambda each: (true(cloud, each) or 0) + extra)


def accounts_of(world: World, caps: Caps) -> tuple[Account, ...]:
    """Every scope's account of the job."""
    with Store.read(world.store) as session:
        return accounts(session, world.job(), caps, ("2026-11",))


def finish(world: World) -> None:
    """A job that has run to its end."""
    world.set_script(steps=3)
    world.submit(spec_of(yuan=20))
    world.until_final()


def close_period(world: World) -> None:
    """Time until the period counts as closed."""
    world.pass_time(LOW_BILL_AFTER_MS + 60_000)
    world.tick()


@pytest.mark.parametrize("extra", [EXTRA, -20_000])
def test_a_closed_period_is_adjusted_to_its_bill_once(
    extra: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The books then say what was paid, and why they were changed."""
    finish(world)
    bill_more(world.cloud, monkeypatch, extra)
    close_period(world)
    world.chores.reconcile()
    world.chores.reconcile()
    assert world.posted() == world.cloud.bill_micros(world.cloud.machines[0].id)
    adjustments = [entry for entry in world.ledger() if entry.kind == "adjust"]
    assert [entry.note for entry in adjustments] == ["the platform's bill for the closed period"]
    assert len(world.events("drift")) == 1


def test_a_bill_within_the_tolerance_changes_nothing(world: World) -> None:
    """One quantum for each power interval is rounding, not drift."""
    finish(world)
    close_period(world)
    world.chores.reconcile()
    assert world.events("drift") == []
    assert all(entry.kind != "adjust" for entry in world.ledger())


def test_an_open_period_is_told_once_and_not_adjusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bill may still be corrected by the platform itself."""
    finish(world)
    bill_more(world.cloud, monkeypatch, EXTRA)
    world.chores.reconcile()
    world.chores.reconcile()
    assert len(world.events("drift")) == 1
    assert all(entry.kind != "adjust" for entry in world.ledger())


def test_until_then_the_caps_count_the_larger_of_the_two(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every scope: a bill above the books is money that is gone."""
    finish(world)
    caps = Caps(month_micros=100 * YUAN, project_micros={"p": 100 * YUAN})
    before = [account.posted_micros for account in accounts_of(world, caps)]
    bill_more(world.cloud, monkeypatch, EXTRA)
    world.chores.reconcile()
    after = [account.posted_micros for account in accounts_of(world, caps)]
    gained = [now - then for now, then in zip(after, before, strict=True)]
    assert len(gained) == 3
    assert all(abs(each - EXTRA) < 20_000 for each in gained)


def test_a_bill_that_cannot_be_read_changes_nothing(world: World) -> None:
    """The next time serves."""
    finish(world)
    world.cloud.fail("bill", Unclear("500"))
    world.chores.reconcile()
    assert world.events("drift") == []
