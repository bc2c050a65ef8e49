from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from costguard.daemon import steps_lost
from costguard.store.models import Artifact, Job, Telemetry

if TYPE_CHECKING:
    from tests.daemon.world import World


def trained(world: World, *, last: int | None, saved: int | None) -> None:
    """A stage whose last logged step and last whole checkpoint are these; a later one is torn."""
    world.submit()
    with world.store.write() as session:
        job = session.query(Job).one()
        if last is not None:
            told = json.dumps({"step": last})
            row = {"job_id": job.id, "stage": 0, "kind": "progress", "at_ms": 0, "received_ms": 0}
            session.add(Telemetry(seq=1, data_json=json.dumps({"step": 1}), **row))
            session.add(Telemetry(seq=2, data_json=told, **row))
        for step, complete in ((saved, True), (last, False)):
            if step is not None:
                session.add(
                    Artifact(
                        job_id=job.id,
                        stage=0,
                        name=f"checkpoint-{step}",
                        kind="checkpoint",
                        step=step,
                        complete=complete,
                        files_json="[]",
                        seen_ms=0,
                    )
                )


@pytest.mark.parametrize(
    ("last", "saved", "message", "expected"),
    [
        (47, 40, {"code": None, "signal": 15}, 7),
        (47, 40, {"code": 0}, 0),
        (47, 40, {"code": 1, "artifact_pending": True}, 0),
        (40, 40, {"code": 75}, 0),
        (9, None, {"code": 1}, 9),
        (None, None, {"code": 1}, 0),
    ],
)
def test_what_no_whole_checkpoint_holds_is_lost(
    world: World, last: int | None, saved: int | None, message: dict[str, Any], expected: int
) -> None:
    """Torn ones hold nothing; a finished training has lost nothing."""
    trained(world, last=last, saved=saved)
    with world.store.read() as session:
        text, lost = steps_lost.at_exit(session, session.query(Job).one(), message)
    assert lost == expected
    assert (f"{expected} steps are lost" in text) is bool(expected)


@pytest.mark.parametrize(
    ("message", "text", "lost"),
    [
        ({}, "training was started", 0),
        ({"resumes_from": None}, "training was started anew: none of its 47 steps was saved", 47),
        ({"resumes_from": "checkpoint-40"}, "from checkpoint-40; 7 steps are trained again", 7),
        ({"resumes_from": "checkpoint-47"}, "training goes on from checkpoint-47", 0),
        ({"resumes_from": "checkpoint-x"}, "training goes on from checkpoint-x", 0),
        ({"resumes_from": 3}, "training was started", 0),
    ],
)
def test_what_is_trained_again_is_said(
    world: World, message: dict[str, Any], text: str, lost: int
) -> None:
    """Where the engine has to be told from where it goes on; ours finds it by itself."""
    trained(world, last=47, saved=40)
    with world.store.read() as session:
        told = steps_lost.at_start(session, session.query(Job).one(), message)
    assert text in told[0]
    assert told[1] == lost
