from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.daemon.plan import latency_of
from costguard.errors import UserError
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.world import World

NOTHING_ARMED = replace(
    FACTS,
    timer_min_lead_ms=None,
    arms_timer_at_create=False,
    in_guest_stop=None,
    in_guest_stop_proven=False,
)


def lines(world: World, *, best_effort: bool = False, yuan: float = 5) -> list[str]:
    """What is printed before the job starts, beside its price."""
    spec = spec_of(best_effort=best_effort, yuan=yuan)
    found: list[str] = world.commands.quote({"spec": spec.to_json()})["lines"]
    return found


@pytest.mark.parametrize(("tells_meter_end", "late_ms"), [(True, 0), (False, 7_000)])
def test_the_printed_l_has_the_poll_that_sees_the_end_of_rent(
    tells_meter_end: bool, late_ms: int
) -> None:
    """Where the platform does not say when rent ended, the books run on to the answer after it."""
    told = replace(FACTS, poll_interval_ms=5_000, cache_age_ms=2_000, stop_latency_ms=3_000)
    facts = replace(told, timer_lateness_ms=1_000, tells_meter_end=tells_meter_end)
    spec = spec_of()
    assert latency_of(spec, facts) == spec.runs[0].save_grace_ms + 4_000 + late_ms


def test_where_the_timer_is_armed_at_create_no_bound_is_left_to_print(world: World) -> None:
    """From the first second on somebody else than this daemon stops it."""
    assert lines(world) == []


def test_the_time_before_the_timer_is_armed_is_printed_with_its_price(
    make_world: Callable[..., World],
) -> None:
    """A stop and two polls, at 36 yuan an hour; and what an hour costs if the daemon dies then."""
    world = make_world(facts=replace(FACTS, arms_timer_at_create=False))
    (line,) = lines(world)
    assert "about 5 s (0.05 yuan), this daemon alone stops it" in line
    assert line.endswith("if it dies then: 36.00 yuan/h")


def test_what_a_second_instance_may_cost_beyond_a_small_cap_is_printed(world: World) -> None:
    """0.29 yuan are for the first lease and its L; the other may cost 0.20, and has 0.16."""
    (line,) = lines(world, yuan=0.45)
    assert line == (
        "should the platform make two instances of one call, the second is stopped; "
        "up to 0.04 yuan of it are not reserved: the cap has no room"
    )


def test_what_cannot_be_made_twice_needs_no_such_room(make_world: Callable[..., World]) -> None:
    """The platform takes a token with the call."""
    assert lines(make_world(facts=replace(FACTS, creates_once=True)), yuan=0.45) == []


def test_a_cap_that_nothing_can_enforce_is_refused(make_world: Callable[..., World]) -> None:
    """No timer, and no stop from inside: nothing is asked of the platform but its price."""
    world = make_world(facts=NOTHING_ARMED)
    with pytest.raises(UserError, match="nothing but this daemon") as refused:
        world.submit(spec_of())
    assert refused.value.code == "cap_not_enforceable"
    world.run(5)
    assert world.cloud.machines == []


def test_with_best_effort_it_is_taken_and_its_bound_printed(
    make_world: Callable[..., World],
) -> None:
    """There is none: each hour has its price."""
    world = make_world(facts=NOTHING_ARMED)
    (line,) = lines(world, best_effort=True)
    assert line.startswith("best effort: nothing bounds the cost if this machine dies")
    assert line.endswith("36.00 yuan")
    world.submit(spec_of(best_effort=True))
    world.run(2)
    assert len(world.cloud.machines) == 1
