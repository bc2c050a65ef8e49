from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from costguard.store.drilled import Proof, keep_proof
from costguard.store.models import BY_HAND, Artifact, Instance, Job
from tests.report.books import NOW_MS, START_MS, YUAN, Books, ask

if TYPE_CHECKING:
    from costguard.store.database import Store

JOB = [
    "job", "state", "breach", "pause_reason", "stage", "phase", "step", "total_steps", "loss",
    "eta_s", "forecast_yuan", "forecast_low_yuan", "forecast_high_yuan", "bites_at_step",
    "evaluations_known",
    "instance", "budget", "lease_expires_at", "enforcers", "telemetry", "last_checkpoint",
]  # fmt: skip
INSTANCE = ["id", "provider", "power", "gpu", "price_yuan_per_hour", "paid_until"]
BUDGET = ["cap_yuan", "spent_yuan", "reserved_yuan", "left_yuan", "worst_case_yuan"]


def job_row(store: Store, pid: int | None = 7) -> dict[str, Any]:
    """The one job's row."""
    (row,) = ask(store, "status", pid)["jobs"]
    found: dict[str, Any] = row
    return found


def enforcers(store: Store, pid: int | None = 7) -> dict[str, tuple[bool, str | None, bool]]:
    """Who is armed, until when, and whether proven."""
    return {
        each["kind"]: (each["armed"], each["until"], each["proven"])
        for each in job_row(store, pid)["enforcers"]
    }


def test_the_document_has_exactly_the_keys_of_the_contract(store: Store) -> None:
    """Down to the last part of a row."""
    with store.write() as session:
        books = Books.open(session)
        books.run_to(books.interval(), 60)
        session.add(checkpoint(books.job, 4))
    status = ask(store, "status", pid=4711)
    assert list(status) == ["schema", "as_of", "daemon", "jobs"]
    assert status["schema"] == "costguard.status/1"
    assert status["daemon"] == {"running": True, "pid": 4711}
    (row,) = status["jobs"]
    assert list(row) == JOB
    assert list(row["instance"]) == INSTANCE
    assert list(row["budget"]) == BUDGET
    assert [list(each) for each in row["enforcers"]] == [["kind", "armed", "until", "proven"]] * 3
    assert list(row["telemetry"]) == ["age_s", "gpu_util_percent", "gpu_memory_percent"]
    assert list(row["last_checkpoint"]) == ["step", "complete", "age_s"]


def test_a_job_that_has_nothing_yet_says_so_with_nulls(store: Store) -> None:
    """Keys never disappear."""
    with store.write() as session:
        books = Books.open(session, state="queued", phase=None)
        session.delete(books.instance)
        session.delete(books.lease)
    row = job_row(store)
    assert list(row) == JOB
    nulls = ("pause_reason", "phase", "step", "total_steps", "loss", "eta_s", "forecast_yuan",
             "instance", "lease_expires_at", "last_checkpoint")  # fmt: skip
    assert {row[key] for key in nulls} == {None}
    assert set(row["telemetry"].values()) == {None}
    assert {each["armed"] for each in row["enforcers"]} == {False}


def test_without_a_daemon_that_is_said(store: Store) -> None:
    """Whoever reads must know that nobody guards."""
    with store.write() as session:
        Books.open(session)
    assert ask(store, "status")["daemon"] == {"running": False, "pid": None}
    assert enforcers(store, pid=None)["daemon"][0] is False


def test_status_and_report_tell_the_same_figures(store: Store) -> None:
    """On two instances, one bill above what was metered and one below."""
    with store.write() as session:
        books = Books.open(session, hold_micros=2 * YUAN)
        books.reserve(30)
        books.run_to(books.interval(), 3_600)
        books.instance.bill_micros = 14 * YUAN
        again = Books.open(session, "other")
        again.instance.job_id = books.job.id
        again.instance.bill_micros = 16 * YUAN
        lease, again.job = again.job, books.job
        again.run_to(again.interval(), 3_600)
        session.delete(again.lease)
        session.flush()
        session.delete(lease)
    budget, found = job_row(store)["budget"], ask(store, "report")["totals"]
    assert budget["spent_yuan"] == "31.00"  # 15 and 16
    assert {key: found[key] for key in BUDGET} == budget


@pytest.mark.parametrize(
    ("quantum_s", "until"),
    [
        (1, "2026-11-24T16:10:01.000Z"),
        (60, "2026-11-24T16:11:00.000Z"),
        (3_600, "2026-11-24T17:00:00.000Z"),
    ],
)
def test_paid_until_is_the_end_of_the_quantum_that_was_begun(
    store: Store, quantum_s: int, until: str
) -> None:
    """Under a tariff by the hour it is worth knowing."""
    with store.write() as session:
        books = Books.open(session, quantum_s=quantum_s)
        running = books.interval()
        books.run_to(running, 601)
    assert job_row(store)["instance"]["paid_until"] == until
    with store.write() as session:
        session.get_one(type(running), running.id).ended_ms = START_MS + 601_000
    assert job_row(store)["instance"]["paid_until"] is None


FORECAST = {
    "eta_ms": 360_400,
    "total_micros": [2_400_000, 2_500_000, 2_750_000],
    "fit": "short",
    "bites_at_step": 8,
    "evaluations": "times",
}


def test_progress_is_the_latest_step_and_the_daemons_last_forecast(store: Store) -> None:
    """4 of 10 steps; what is left, and what it will have cost, as the daemon reckoned it."""
    with store.write() as session:
        books = Books.open(session)
        books.job.forecast_json = json.dumps(FORECAST)
        for step in range(1, 5):
            given = {"step": step, "total_steps": 10, "loss": 4.0 - step / 2}
            books.tell("progress", step, after_s=60 * step, **given)
    row = job_row(store)
    assert (row["step"], row["total_steps"], row["loss"], row["eta_s"]) == (4, 10, 2.0, 360)
    assert [row[key] for key in JOB if key.startswith("forecast")] == ["2.50", "2.40", "2.75"]
    assert (row["bites_at_step"], row["evaluations_known"]) == (8, "times")


def test_an_older_daemons_forecast_says_nothing_of_evaluations(store: Store) -> None:
    """It was written before there was anything to say of them."""
    with store.write() as session:
        older = {key: value for key, value in FORECAST.items() if key != "evaluations"}
        Books.open(session).job.forecast_json = json.dumps(older)
    row = job_row(store)
    assert (row["forecast_yuan"], row["evaluations_known"]) == ("2.50", None)


def test_without_a_forecast_its_figures_are_null(store: Store) -> None:
    """And whatever a rented machine sent, status answers."""
    with store.write() as session:
        books = Books.open(session)
        books.tell("progress", 1, after_s=1, step="1", total_steps="x", boot_ms=None)
    row = job_row(store)
    assert (row["eta_s"], row["forecast_yuan"], row["bites_at_step"]) == (None, None, None)


def test_only_a_job_that_trains_has_a_time_to_go(store: Store) -> None:
    """Afterwards the last step stays visible."""
    with store.write() as session:
        books = Books.open(session, state="finished", pause_reason="finished")
        books.job.forecast_json = json.dumps(FORECAST)
        for step in (1, 2):
            books.tell("progress", step, after_s=step, step=step, total_steps=9, loss=1.5)
    row = job_row(store)
    assert (row["eta_s"], row["forecast_yuan"], row["step"], row["loss"]) == (None, None, 2, 1.5)


def test_enforcers_are_told_with_what_is_known_of_each(store: Store) -> None:
    """The daemon, the platform's timer as read back, and the agent once it has the lease."""
    with store.write() as session:
        books = Books.open(session)
        job_id, instance_id = books.job.id, books.instance.id
        session.get_one(Job, job_id).launched_ms = START_MS
    until, timer = "2026-11-24T17:10:00.000Z", "2026-11-24T17:10:04.000Z"
    assert enforcers(store) == {
        "daemon": (True, until, True),
        "platform_timer": (False, None, False),
        "agent": (False, None, True),
    }
    with store.write() as session:
        instance = session.get_one(Instance, instance_id)
        instance.timer_at_ms, instance.agent_until_ms = NOW_MS + 604_000, NOW_MS + 600_000
    assert enforcers(store)["platform_timer"] == (True, timer, True)
    assert enforcers(store)["agent"] == (True, until, True)
    with store.write() as session:
        session.get_one(Job, job_id).exit_json = "{}"
    assert enforcers(store)["agent"] == (True, until, True), "it holds its lease after the exit too"
    with store.write() as session:
        instance = session.get_one(Instance, instance_id)
        instance.timer_at_ms = instance.agent_until_ms = NOW_MS
    assert enforcers(store)["agent"] == (False, None, True)
    assert enforcers(store)["platform_timer"][0] is False


def test_a_deadline_beyond_the_lease_is_shown_and_not_called_proven(store: Store) -> None:
    """Set once at create and never read back: it is armed, and that is all that is known."""
    with store.write() as session:
        Books.open(session).instance.timer_at_ms = NOW_MS + 1_200_000
    assert enforcers(store)["platform_timer"] == (True, "2026-11-24T17:20:00.000Z", False)


def test_a_timer_that_nobody_has_seen_fire_is_not_called_proven(store: Store) -> None:
    """A drill of that account changes it; the embedded platform's fires in our own tests."""
    with store.write() as session:
        instance = Books.open(session).instance
        instance.timer_at_ms, instance.provider = NOW_MS + 604_000, "compshare"
    assert enforcers(store)["platform_timer"][::2] == (True, False)
    with store.write() as session:
        keep_proof(session, "compshare", Proof(NOW_MS, 812))
    assert enforcers(store)["platform_timer"][::2] == (True, True)


def test_what_only_a_person_stops_has_no_daemon_for_it(store: Store) -> None:
    """It may call as often as it likes: nothing is armed."""
    with store.write() as session:
        Books.open(session).instance.guest_stop = BY_HAND
    assert enforcers(store)["daemon"] == (False, None, False)


def test_what_was_given_back_is_shown_as_released(store: Store) -> None:
    """Whatever its last power state was, and nothing is armed."""
    with store.write() as session:
        books = Books.open(session)
        books.instance.released_ms = NOW_MS
        books.instance.timer_at_ms = NOW_MS + 1
    assert job_row(store)["instance"]["power"] == "released"
    assert {armed for armed, _, _ in enforcers(store).values()} == {False}


def test_telemetry_shows_the_busiest_card_of_the_latest_window(store: Store) -> None:
    """And how old the news is."""
    cards = [
        {"util_mean": 41.4, "mem_used_mib": 6_000, "mem_total_mib": 24_000},
        {"util_mean": 97.6, "mem_used_mib": 18_000, "mem_total_mib": 24_000},
        {"util_mean": None, "mem_used_mib": None, "mem_total_mib": 24_000},
    ]
    with store.write() as session:
        books = Books.open(session)
        books.tell("gpu", 1, after_s=3_500, cards=[{"util_mean": 3.0}])
        books.tell("gpu", 2, after_s=3_590, cards=cards)
    assert job_row(store)["telemetry"] == {
        "age_s": 9,
        "gpu_util_percent": 98,
        "gpu_memory_percent": 75,
    }


def test_a_machine_without_a_gpu_has_no_percentages(store: Store) -> None:
    """Unknown is null, not 0 %."""
    with store.write() as session:
        Books.open(session).tell("gpu", 1, after_s=3_600, cards=[], nvml={"state": "absent"})
    assert job_row(store)["telemetry"] == {
        "age_s": 0,
        "gpu_util_percent": None,
        "gpu_memory_percent": None,
    }


def checkpoint(job: Job, step: int, *, complete: bool = True, stage: int = 0) -> Artifact:
    """A checkpoint that was seen ten seconds ago."""
    return Artifact(
        job_id=job.id,
        stage=stage,
        name=f"checkpoint-{step}",
        kind="checkpoint",
        step=step,
        complete=complete,
        files_json="[]",
        seen_ms=NOW_MS - 10_000,
    )


def test_the_last_checkpoint_is_that_of_the_highest_step_of_this_stage(store: Store) -> None:
    """Complete or not: a half-written one is worth knowing of."""
    with store.write() as session:
        job = Books.open(session).job
        found = [
            checkpoint(job, 4),
            checkpoint(job, 8, complete=False),
            checkpoint(job, 9, stage=1),
        ]
        session.add_all(found)
    assert job_row(store)["last_checkpoint"] == {"step": 8, "complete": False, "age_s": 10}


def test_all_jobs_are_shown_newest_first_and_one_by_its_name(store: Store) -> None:
    """Of two jobs of one name, the newer one."""
    with store.write() as session:
        for name, state in (("a", "finished"), ("b", "training"), ("a", "queued")):
            Books.open(session, name, state=state)
    everything = ask(store, "status")["jobs"]
    assert [(row["job"], row["state"]) for row in everything] == [
        ("a", "queued"),
        ("b", "training"),
        ("a", "finished"),
    ]
    assert [row["state"] for row in ask(store, "status", job="a")["jobs"]] == ["queued"]
