from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.spec import SpecError, load_spec, parse_spec
from costguard.core.spec import GuardLimits

if TYPE_CHECKING:
    from pathlib import Path

LEAST = {"run_id": "r", "argv": ["true"]}


def test_what_is_not_said_has_a_default() -> None:
    """No power-off among them: there is no default for that."""
    spec = parse_spec(LEAST)
    assert spec.in_guest_stop is None
    assert (spec.cwd, spec.output_dir, spec.needs) == (".", "output", ())
    assert (spec.save_grace_s, spec.first_lease_s, spec.window_s) == (30.0, 120.0, 5.0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"run_id": ""}, "run_id"),
        ({"argv": []}, "argv"),
        ({"argv": "rm -rf"}, "argv"),
        ({"argv": ["x\0y"]}, "argv"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": 1}}, "env"),
        ({"in_guest_stop": "shutdown"}, "in_guest_stop"),
        ({"in_guest_stop": []}, "in_guest_stop"),
        ({"needs": ["os; import x"]}, "needs"),
        ({"save_grace_s": -1}, "save_grace_s"),
        ({"save_grace_s": True}, "save_grace_s"),
        ({"first_lease_s": "2m"}, "first_lease_s"),
        ({"telemetry": {"window_s": 0}}, "window_s"),
        ({"telemetry": []}, "telemetry"),
        ({"expects_adapter": 1}, "expects_adapter"),
        ({"guards": []}, "guards"),
        ({"guards": {"idle_after_ms": "5m"}}, "idle_after_ms"),
        ({"guards": {"idle_after_ms": None}}, "idle_after_ms"),
        ({"guards": {"stall_factor": -1}}, "stall_factor"),
        ({"guards": {"on_gate": 3}}, "on_gate"),
        ({"least": {"torch": 2}}, "least"),
        ({"python": 3}, "python"),
        ({"files": {"../x": ""}}, "files"),
        ({"files": {"/etc/x": ""}}, "files"),
        ({"config": {"a b": 1}}, "config"),
        ({"config": {"a": [1]}}, "config"),
        ({"config": []}, "config"),
        ({"install": True}, "install"),
        ({"install": {"root": "r", "allowed": 1}}, "allowed"),
        ({"install": {"root": "r", "packages": ["-r x"]}}, "packages"),
        ({"install": {"root": "r", "requirements": [""]}}, "requirements"),
        ({"install": {"root": "r", "within_s": -1}}, "within_s"),
        ({"install": {"allowed": True}}, "root"),
    ],
)
def test_a_wrong_field_is_named(wrong: dict[str, Any], named: str) -> None:
    """The order is refused before anything is started."""
    with pytest.raises(SpecError, match=named):
        parse_spec({**LEAST, **wrong})


def test_a_file_that_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    """With its name, and what to do."""
    path = tmp_path / "spec.json"
    with pytest.raises(SpecError, match=r"spec\.json is not there"):
        load_spec(path)
    path.write_text("{")
    with pytest.raises(SpecError, match="cannot be read as JSON"):
        load_spec(path)


def test_the_limits_to_judge_by_are_those_of_the_job() -> None:
    """As the daemon has them; a field that only a newer daemon knows is left alone."""
    limits = asdict(GuardLimits(idle_after_ms=7, max_ms=9))
    spec = parse_spec({**LEAST, "guards": {**limits, "from_the_future": 1}})
    assert spec.guards == GuardLimits(idle_after_ms=7, max_ms=9)
    assert parse_spec(LEAST).guards == GuardLimits()
    assert parse_spec({**LEAST, "expects_adapter": True}).expects_adapter is True
