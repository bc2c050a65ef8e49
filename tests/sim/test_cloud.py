from __future__ import annotations

from random import Random

import pytest

from costguard.sim.books import Books, DoesNotFit, OpenLease, Purse
from costguard.sim.clock import SimClock
from costguard.sim.cloud import Run, knowable
from costguard.sim.faults import PER_CALL, PER_HOUR, Faults
from costguard.store.ledger import Caps

HOUR_MS = 3_600_000
YUAN = 1_000_000


@pytest.mark.parametrize(
    ("ran_ms", "quantum_s", "micros"),
    [(HOUR_MS, 1, 36 * YUAN), (1, 1, 10_000), (1, 3_600, 36 * YUAN), (61_000, 60, 1_200_000)],
)
def test_a_quantum_begun_is_paid(ran_ms: int, quantum_s: int, micros: int) -> None:
    """The platform's own meter, at 36 yuan an hour."""
    run = Run(0, [(0, 36 * YUAN)], ended_ms=ran_ms)
    assert run.micros(10 * HOUR_MS, quantum_s) == micros


def test_a_quantum_is_paid_at_the_price_when_it_began() -> None:
    """A rise in the midst of an hour counts from the next hour on; per second at once."""
    run = Run(0, [(0, 10 * YUAN), (HOUR_MS // 2, 20 * YUAN)], ended_ms=2 * HOUR_MS)
    assert run.micros(HOUR_MS, 3_600) == 10 * YUAN
    assert run.micros(2 * HOUR_MS, 3_600) == 30 * YUAN
    assert run.micros(2 * HOUR_MS, 1) == 35 * YUAN


def test_a_calm_seed_has_no_troubles_and_a_healed_one_no_more() -> None:
    """Half of liveness is that the troubles end."""
    calm = Faults(Random(0), calm=True)
    assert not any(calm.hits(kind) for kind in PER_CALL)
    sure = Faults(Random(0), focus=dict.fromkeys(PER_CALL, 1.0))
    assert all(sure.hits(kind) for kind in PER_CALL)
    sure.healed = True
    assert not any(sure.hits(kind) or sure.comes(kind, HOUR_MS) for kind in PER_HOUR)


def test_the_wall_clock_can_be_set_and_the_boot_clock_not() -> None:
    """Until the machine boots anew, which is another boot."""
    clock = SimClock()
    before = clock.now()
    clock.set_wall(-HOUR_MS)
    clock.advance(1_000)
    after = clock.now()
    assert after.utc_ms == before.utc_ms - HOUR_MS + 1_000
    assert after.boot_ms == before.boot_ms + 1_000
    clock.boot_anew()
    assert clock.now().boot_id != before.boot_id


def test_the_books_in_memory_keep_the_ledgers_rules() -> None:
    """I1 at a grant; a charge consumes; what nothing had reserved is the overrun."""
    books = Books(Caps())
    purse = books.purses[1] = Purse(1, "job", cap_micros=100, hold_micros=10)
    now = SimClock().now()
    purse.lease = OpenLease(1, 1, now, now.plus_ms(1), 0, final=False)
    books.reserve(purse, 90)
    with pytest.raises(DoesNotFit):
        books.reserve(purse, 1)
    books.charge(purse, 95, part=1)
    assert (purse.posted_micros, purse.pending_micros, purse.overrun_micros) == (95, 0, 5)
    books.charge(purse, 4, part=0, disk=True)
    assert (purse.hold_micros, purse.overrun_micros) == (6, 5)
    books.settle(purse)
    assert (purse.pending_micros, books.broken()) == (0, [])


def test_what_a_price_was_between_two_looks_cannot_be_known() -> None:
    """It rose to 9 and fell to 4 between looks that were told 3 and 4: at most 4 is known."""
    run = Run(0, [(0, 3), (200, 9), (300, 4), (500, 8)])
    assert knowable(run, [(100, 3), (400, 4), (600, 8)]).prices == [
        (0, 3),
        (200, 4),
        (300, 4),
        (500, 8),
    ]


def test_a_price_that_one_look_was_told_is_known_until_the_next() -> None:
    """A fall after it is not known before it is told."""
    run = Run(0, [(0, 9), (200, 3)])
    assert knowable(run, [(100, 9), (400, 3)]) == run
