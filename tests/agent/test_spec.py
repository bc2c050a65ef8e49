from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.spec import SpecError, load_spec, parse_spec

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
