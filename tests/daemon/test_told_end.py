from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.daemon.told_end import tell_end
from costguard.store.models import Job

if TYPE_CHECKING:
    from tests.daemon.world import World


@pytest.mark.parametrize(
    ("began", "message", "kind", "text"),
    [
        (True, {"code": 3, "signal": None}, "training_ended", "training ended: exit code 3"),
        (True, {"code": None, "signal": 9}, "training_ended", "training ended: signal 9"),
        (
            True,
            {"code": None, "signal": None, "detail": "the instance was rebooted"},
            "training_ended",
            "how the training ended was not seen: the instance was rebooted",
        ),
        (
            True,
            {"code": None},
            "training_ended",
            "how the training ended was not seen: nothing is left of it",
        ),
        (
            False,
            {"code": None, "signal": None, "detail": "stopped before it had begun"},
            "never_began",
            "no training began: stopped before it had begun",
        ),
    ],
)
def test_an_end_is_told_as_it_was(
    world: World, message: dict[str, Any], kind: str, text: str, *, began: bool
) -> None:
    """Never an exit code None; and what never began has not ended."""
    world.submit()
    with world.store.write() as session:
        job = session.query(Job).one()
        job.launched_ms = 1 if began else None
        tell_end(session, job, {"seq": 7, **message}, 5)
    (event,) = world.events(kind)
    assert event.text == text
