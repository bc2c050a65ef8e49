from __future__ import annotations

import pytest

from costguard.agent.leases import HEARTBEATS_REMEMBERED, Leases

SENT_MS = 1_000_000


@pytest.fixture
def leases() -> Leases:
    """Leases that have sent heartbeat 7 at SENT_MS."""
    made = Leases()
    made.heartbeat_sent(7, SENT_MS)
    return made


def test_counted_from_the_sending_of_the_heartbeat(leases: Leases) -> None:
    """An answer that took 4 s on its way grants 4 s less."""
    answer = leases.grant("L", 7, 10_000, SENT_MS + 4_000)
    assert answer.state == "granted"
    assert leases.ends_at_ms == SENT_MS + 10_000
    assert leases.in_force(SENT_MS + 9_999)
    assert not leases.in_force(SENT_MS + 10_000)


def test_unknown_heartbeat_is_refused(leases: Leases) -> None:
    """A number that was never sent says nothing of when the lease began."""
    answer = leases.grant("L", 8, 10_000, SENT_MS)
    assert answer.state == "refused"
    assert "8" in answer.reason
    assert leases.ends_at_ms is None


def test_forgotten_heartbeat_is_refused(leases: Leases) -> None:
    """A heartbeat beyond what is remembered counts as unknown."""
    for number in range(8, 8 + HEARTBEATS_REMEMBERED):
        leases.heartbeat_sent(number, SENT_MS + number)
    assert leases.grant("L", 7, 10_000_000, SENT_MS).state == "refused"


def test_only_the_present_readers_heartbeats_count(leases: Leases) -> None:
    """What was sent to the reader before can no longer be answered."""
    leases.new_reader()
    assert leases.grant("L", 7, 10_000, SENT_MS).state == "refused"


def test_same_id_keeps_the_later_end(leases: Leases) -> None:
    """An overtaken answer does not cut a lease short."""
    leases.grant("L", 7, 20_000, SENT_MS)
    assert leases.grant("L", 7, 10_000, SENT_MS).state == "kept"
    assert leases.ends_at_ms == SENT_MS + 20_000


def test_another_id_may_shorten(leases: Leases) -> None:
    """A new lease is the daemon's latest word."""
    leases.grant("L", 7, 20_000, SENT_MS)
    assert leases.grant("M", 7, 10_000, SENT_MS).state == "granted"
    assert leases.ends_at_ms == SENT_MS + 10_000


def test_a_lease_that_has_ended_on_its_way_is_refused(leases: Leases) -> None:
    """It would grant nothing, and must not look as if it did."""
    assert leases.grant("L", 7, 5_000, SENT_MS + 5_000).state == "refused"
    assert leases.ends_at_ms is None


@pytest.mark.parametrize("valid_ms", [0, -1, True, 1.5, "9", None, 10**15])
def test_valid_ms_must_be_a_sane_number(leases: Leases, valid_ms: object) -> None:
    """Nonsense grants nothing."""
    assert leases.grant("L", 7, valid_ms, SENT_MS).state == "refused"


def test_small_renewals_are_not_told_each_time(leases: Leases) -> None:
    """A lease that slides along with each heartbeat does not fill the journal."""
    assert leases.grant("L", 7, 60_000, SENT_MS).worth_telling
    told = 0
    for number in range(8, 28):
        leases.heartbeat_sent(number, SENT_MS + (number - 7) * 1000)
        told += leases.grant("L", number, 60_000, SENT_MS + (number - 7) * 1000).worth_telling
    assert told == 2
