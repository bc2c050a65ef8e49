from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from costguard.core.spec import (
    GuardLimits,
    InstanceWish,
    JobSpec,
    Run,
    Schedule,
    Stage,
    UploadWish,
    model_of,
    spec_from_json,
)
from tests.core.snapshots import SPEC

TEXTS = st.sampled_from(["", "a b", "客服", "{python}", '"', "\\n\0"])
RUNS = st.builds(
    Run,
    argv=st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
    output_dir=TEXTS,
    needs=st.lists(TEXTS, max_size=2).map(tuple),
    uploads=st.lists(st.builds(UploadWish, local=TEXTS, remote=TEXTS), max_size=2).map(tuple),
    save_grace_ms=st.integers(0, 10**9),
    expects_adapter=st.booleans(),
    schedule=st.none()
    | st.builds(
        Schedule,
        evaluate_every=st.none() | st.integers(1, 10**6),
        held_out=st.none() | st.integers(1, 10**6),
    ),
)
SPECS = st.builds(
    JobSpec,
    name=TEXTS,
    project=TEXTS,
    cap_micros=st.integers(0, 10**13),
    best_effort=st.booleans(),
    instance=st.builds(
        InstanceWish,
        provider=TEXTS,
        gpu=st.none() | TEXTS,
        max_price_micros_per_hour=st.none() | st.integers(0, 10**9),
    ),
    runs=st.lists(RUNS, min_size=1, max_size=3).map(tuple),
    stages=st.lists(
        st.builds(
            Stage,
            max_samples=st.none() | st.integers(1, 10**6),
            start=st.sampled_from(["base", "previous"]),
            gate_loss_drop_percent=st.none() | st.integers(0, 100),
        ),
        max_size=3,
    ).map(tuple),
    guards=st.builds(GuardLimits, max_ms=st.none() | st.integers(1, 10**9)),
    lease_ms=st.integers(1, 10**9),
)


@given(SPECS)
def test_a_job_is_stored_and_read_back_whole(spec: JobSpec) -> None:
    """What the database keeps is what was asked for, tuples and all."""
    assert spec_from_json(spec.to_json()) == spec


def test_the_same_job_is_the_same_text() -> None:
    """Stored texts can be compared."""
    spec = JobSpec("x", "客服", 1, False, InstanceWish("local"), (Run(("x",)),))
    assert spec.to_json() == spec_from_json(spec.to_json()).to_json()
    assert "客服" in spec.to_json()


def test_a_field_of_another_version_is_not_swallowed() -> None:
    """What is not understood is an error, not a default."""
    data = json.loads(JobSpec("x", "p", 1, False, InstanceWish("a"), (Run(("x",)),)).to_json())
    with pytest.raises(TypeError, match="surprise"):
        spec_from_json(json.dumps({**data, "surprise": 1}))


def test_a_job_that_was_stored_before_there_were_schedules_has_none() -> None:
    """What it does beside its steps is then not known."""
    run = Run(("x",), schedule=Schedule(evaluate_every=5))
    data = json.loads(JobSpec("x", "p", 1, False, InstanceWish("a"), (run,)).to_json())
    del data["runs"][0]["schedule"]
    assert spec_from_json(json.dumps(data)).runs[0].schedule is None


def test_the_model_of_a_stored_job_is_what_its_command_names() -> None:
    """A command of one's own names none; a flag at the very end has no value."""
    wish = InstanceWish(provider="local")

    def stored(*argv: str) -> str:
        return JobSpec("j", "p", 1, False, wish, (Run(argv),)).to_json()

    assert model_of(stored("x", "--model_name_or_path", "Qwen/Qwen2.5-7B")) == "Qwen/Qwen2.5-7B"
    assert model_of(stored("x")) is None
    assert model_of(stored("x", "--model_name_or_path")) is None


def test_a_job_that_is_rented_for_anew_names_no_instance() -> None:
    """Whatever it was to go on on; and it does not look for another such one."""
    wish = InstanceWish(provider="x", gpu="g", instance_id="i-1", reused=True)
    found = replace(SPEC, instance=wish).rented_anew().instance
    assert found == InstanceWish(provider="x", gpu="g", reuse=False)
