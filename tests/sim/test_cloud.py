from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from costguard.core.tariff import PriceChange, running_micros
from costguard.sim.adapter import tariff_of
from costguard.sim.books import Books, DoesNotFit, OpenLease, Purse
from costguard.sim.clock import NOVEMBER_MS, SimClock
from costguard.sim.cloud import Prices, Run, knowable
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


NIGHT = Prices(10 * YUAN, 3_600, 0, night_per_mille=500)


@pytest.mark.parametrize(
    ("rules", "from_h", "to_h", "yuan"),
    [
        (NIGHT, 22, 24, 15),  # an hour of day and one of night
        (NIGHT, 22.5, 23.25, 10),  # begun by day, paid as day
        (NIGHT, 30.5, 32, 15),  # the last night hour is the one that begins before seven
        (Prices(10 * YUAN, 3_600, 0, by_clock=True), 9.9, 10.1, 20),
        (Prices(10 * YUAN, 60, 0, minimum_s=1_800), 9, 9.1, 5),
        (Prices(10 * YUAN, 60, 0, minimum_s=1_800), 9, 9, 0),
    ],
)
def test_whole_tariffs_by_hand(rules: Prices, from_h: float, to_h: float, yuan: int) -> None:
    """In hours of the day in Shanghai, whose midnight is 16:00 UTC."""
    midnight_ms = NOVEMBER_MS - 8 * HOUR_MS
    begun_ms, ended_ms = (midnight_ms + int(hour * HOUR_MS) for hour in (from_h, to_h))
    run = Run(begun_ms, [(begun_ms, rules.running)], ended_ms=ended_ms, rules=rules)
    assert run.micros(ended_ms, rules.quantum_s) == yuan * YUAN


def test_two_arithmetics_of_one_tariff_agree() -> None:
    """The platform's and costguard's, over rents and changes of price at random."""
    rng = Random("whole tariffs")
    for _ in range(2_000):
        rules = Prices(
            rng.randint(1, 40) * YUAN // 2,
            rng.choice((1, 60, 3_600)),
            0,
            by_clock=rng.random() < 0.5,
            night_per_mille=rng.choice((500, 800, 1_000)),
            minimum_s=rng.choice((0, 600)),
        )
        begun_ms = NOVEMBER_MS + rng.randint(0, 72 * HOUR_MS)
        ended_ms = begun_ms + rng.randint(0, 20 * HOUR_MS)
        changed_ms = begun_ms + rng.randint(1, 20 * HOUR_MS)
        run = Run(begun_ms, [(begun_ms, rules.running)], ended_ms=ended_ms, rules=rules)
        run.prices.append((changed_ms, rules.running * 2))
        tariff = replace(tariff_of(rules), changes=(PriceChange(changed_ms, rules.running * 2),))
        theirs, ours = (
            run.micros(ended_ms, rules.quantum_s),
            running_micros(tariff, begun_ms, ended_ms),
        )
        assert 0 <= ours - theirs <= 1, (rules, begun_ms, ended_ms, changed_ms)


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


def test_the_cap_of_a_project_holds_for_its_jobs_alone() -> None:
    """I1 in every scope."""
    books = Books(Caps(project_micros={"a": 100}))
    now = SimClock().now()
    for number, project in ((1, "a"), (2, "a"), (3, "b")):
        purse = Purse(number, f"job-{number}", cap_micros=1_000, project=project)
        purse.lease = OpenLease(number, 1, now, now.plus_ms(1), 0, final=False)
        books.purses[number] = purse
    books.reserve(books.purses[1], 60)
    books.reserve(books.purses[3], 900)
    with pytest.raises(DoesNotFit, match="project a"):
        books.reserve(books.purses[2], 41)
    books.reserve(books.purses[2], 40)


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
