from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from costguard.errors import UserError
from costguard.report.documents import answer, read_answer
from costguard.report.explain import NEXT_STEPS
from costguard.store.events import add_event
from costguard.store.ledger import Caps
from costguard.store.models import Artifact
from tests.report.books import NOW_MS, START_MS, YUAN, ZONE, Books, ask

if TYPE_CHECKING:
    from pathlib import Path

    from costguard.store.database import Store


def test_explain_tells_the_verdict_its_evidence_and_what_to_do(store: Store) -> None:
    """Why it was paused, when it was seen stopped, and the next step."""
    seen = [START_MS + 5_000, START_MS + 20_000]
    with store.write() as session:
        books = Books.open(session, state="paused", pause_reason="stalled")
        books.job.verdict_text = "no new step for 130 s"
        books.job.verdict_json = '{"waited_s": 130}'
        books.job.verdict_utc_ms = START_MS
        job_id = books.job.id
        add_event(session, job_id, START_MS + 9_000, "stop_confirmed", "old", {"seen_ms": [1]})
        add_event(session, job_id, START_MS + 21_000, "stop_confirmed", "off", {"seen_ms": seen})
    assert ask(store, "explain", job="kefu") == {
        "schema": "costguard.explain/1",
        "job": "kefu",
        "state": "paused",
        "pause_reason": "stalled",
        "verdicts": [
            {
                "at": "2026-11-24T16:00:00.000Z",
                "guard": "stalled",
                "text": "no new step for 130 s",
                "evidence": {"waited_s": 130},
            }
        ],
        "lead_up": None,
        "stop": {
            "seen": ["2026-11-24T16:00:05.000Z", "2026-11-24T16:00:20.000Z"],
            "confirmed_at": "2026-11-24T16:00:21.000Z",
            "attested_at": None,
        },
        "saved": [],
        "cost": {
            "spent_yuan": "0.00",
            "cap_yuan": "80.00",
            "idle_yuan": "0.00",
            "disk_yuan_per_day": "0.00",
        },
        "advice": [],
        "next": ["look at the last lines of the log: `costguard logs kefu`"],
    }


def test_explain_of_a_running_job_has_no_verdict_and_no_stop(store: Store) -> None:
    """Nothing is invented."""
    with store.write() as session:
        Books.open(session)
    found = ask(store, "explain", job="kefu")
    assert (found["verdicts"], found["next"]) == ([], [])
    assert found["stop"] == {"seen": [], "confirmed_at": None, "attested_at": None}


def test_every_reason_for_a_pause_has_a_next_step() -> None:
    """The design's list, but for the gate, which comes with its own question."""
    reasons = "finished budget stalled idle blind failed diverged max_hours user platform"
    assert set(NEXT_STEPS) == set(reasons.split())


@pytest.mark.parametrize(("state", "costs"), [("finished", True), ("released", False)])
def test_no_disk_is_said_to_cost_that_the_job_has_no_more(
    store: Store, state: str, *, costs: bool
) -> None:
    """Given back, or gone on to another job of its project."""
    with store.write() as session:
        job = Books.open(session).job
        job.state, job.pause_reason = state, "finished"
    (told,) = ask(store, "explain", job="kefu")["next"]
    assert ("the paused disk costs" in told) is costs


def test_events_are_told_from_where_one_left_off(store: Store) -> None:
    """With the job's name, the data parsed, and where to go on."""
    with store.write() as session:
        job_id = Books.open(session).job.id
        other_id = Books.open(session, "other").job.id
        add_event(session, job_id, START_MS, "state", "queued")
        add_event(session, other_id, START_MS, "state", "queued")
        add_event(session, None, START_MS, "daemon", "started", {"pid": 5})
        add_event(session, job_id, START_MS, "state", "training")
    everything = ask(store, "events")
    assert [event["job"] for event in everything["events"]] == ["kefu", "other", None, "kefu"]
    assert everything["events"][2] == {
        "id": 3,
        "at": "2026-11-24T16:00:00.000Z",
        "job": None,
        "kind": "daemon",
        "text": "started",
        "data": {"pid": 5},
    }
    assert everything["last"] == 4
    first = ask(store, "events", limit=1)
    assert (len(first["events"]), first["last"]) == (1, 1)
    rest = ask(store, "events", after=1, job="kefu")
    assert ([event["id"] for event in rest["events"]], rest["last"]) == ([4], 4)
    assert ask(store, "events", after=4) == {"events": [], "last": 4}


def test_logs_are_the_lines_of_the_present_stage(store: Store) -> None:
    """In order, from where one left off."""
    with store.write() as session:
        books = Books.open(session)
        books.tell("log", 1, lines=["one", "two"])
        books.tell("heartbeat", 2)
        books.tell("log", 3, lines=["three"])
        books.tell("log", 4, lines=None)
    assert ask(store, "logs", job="kefu") == {"lines": ["one", "two", "three"], "last": 4}
    assert ask(store, "logs", job="kefu", after=1) == {"lines": ["three"], "last": 4}
    assert ask(store, "logs", job="kefu", after=4) == {"lines": [], "last": 4}


def test_budgets_are_those_of_jobs_projects_and_this_month(store: Store) -> None:
    """Each scope once, with what is left in it."""
    with store.write() as session:
        for name in ("one", "two"):
            books = Books.open(session, name, cap_yuan=80, hold_micros=YUAN)
            books.reserve(20)
            books.run_to(books.interval(), 3_600)
    caps = Caps(month_micros=500 * YUAN, project_micros={"p": 100 * YUAN})
    with store.read() as session:
        found = read_answer(session, "budget_show", {}, NOW_MS, ZONE, caps, None)
    keys = ("scope", "name", "cap_yuan", "spent_yuan", "reserved_yuan", "disk_yuan", "left_yuan")
    assert [tuple(budget[key] for key in keys) for budget in found["budgets"]] == [
        ("job", "one", "80.00", "15.00", "5.00", "1.00", "59.00"),
        ("project", "p", "100.00", "30.00", "10.00", "2.00", "58.00"),
        ("month", "2026-11", "500.00", "30.00", "10.00", "2.00", "458.00"),
        ("job", "two", "80.00", "15.00", "5.00", "1.00", "59.00"),
    ]


@pytest.mark.parametrize("do", ["status", "explain", "logs", "events"])
def test_a_job_that_is_not_there_is_an_error_that_names_those_that_are(
    store: Store, do: str
) -> None:
    """A typing mistake is put right at a glance."""
    with store.write() as session:
        Books.open(session, "kefu")
    with pytest.raises(UserError) as caught:
        ask(store, do, job="kefo")
    assert (caught.value.code, caught.value.exit_code) == ("unknown_job", 2)
    assert caught.value.hint == "jobs here: kefu"


def test_a_report_by_what_cannot_be_grouped_by_is_refused(store: Store) -> None:
    """With what can."""
    with pytest.raises(UserError, match="'moon'") as caught:
        ask(store, "report", by="moon")
    assert "gpu" in caught.value.hint


@pytest.mark.parametrize("do", ["status", "events", "budget_show"])
def test_an_empty_home_answers_in_the_same_form(home: Path, do: str) -> None:
    """Empty lists under the same keys, and no database made by looking."""
    found = answer(do, {})
    assert not (home / "costguard.db").exists()
    if do != "events":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("as_of"))
    assert (
        found
        == {
            "status": {
                "schema": "costguard.status/1",
                "daemon": {"running": False, "pid": None},
                "jobs": [],
            },
            "events": {"events": [], "last": 0},
            "budget_show": {"schema": "costguard.budget/1", "budgets": []},
        }[do]
    )


@pytest.mark.parametrize(
    ("do", "args", "code"),
    [
        ("report", {}, "nothing_here"),
        ("explain", {"job": "kefu"}, "unknown_job"),
        ("status", {"job": "kefu"}, "unknown_job"),
    ],
)
def test_an_empty_home_says_that_nothing_was_submitted(
    home: Path, do: str, args: dict[str, Any], code: str
) -> None:
    """What, where and what to do."""
    with pytest.raises(UserError) as caught:
        answer(do, args)
    assert (caught.value.code, caught.value.where) == (code, str(home))
    assert caught.value.hint


def test_without_a_daemon_the_same_answer_comes_from_the_file(home: Path, store: Store) -> None:
    """With the zone and the caps of the config."""
    with store.write() as session:
        books = Books.open(session)
        books.reserve(20)
        books.run_to(books.interval(), 3_600)
    (home / "config.toml").write_text("[budgets]\nmonth_yuan = 500\n", encoding="utf-8")
    found = answer("report", {})
    assert {**found, "as_of": None} == {**ask(store, "report"), "as_of": None}
    scopes = [budget["scope"] for budget in answer("budget_show", {})["budgets"]]
    assert scopes == ["job", "month"]


def test_a_resume_on_other_data_is_told_the_newest_whole_checkpoint(store: Store) -> None:
    """From a folder beside its own: the torn one after it is not gone on from."""
    with store.write() as session:
        job = Books.open(session).job
        name, job_id = job.name, job.id
    assert ask(store, "source", job=name)["checkpoint"] is None
    with store.write() as session:
        for step, whole in ((40, True), (50, False)):
            told = Artifact(job_id=job_id, stage=0, kind="checkpoint", files_json="[]", seen_ms=1)
            told.name, told.step, told.complete = f"checkpoint-{step}", step, whole
            session.add(told)
    assert ask(store, "source", job=name)["checkpoint"] == "../stage-0/output/checkpoint-40"
    with store.write() as session:
        add_event(session, job_id, 2, "resumed", "attempt 2", {"changed": True})
    assert ask(store, "source", job=name)["checkpoint"] is None, "another folder, still empty"
