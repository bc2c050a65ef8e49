from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.cli.advice import advice_text
from costguard.report import advice
from costguard.store.events import add_event
from tests.report.books import START_MS, Books, ask
from tests.report.night import END_S, a_night

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.store.database import Store

FALLING = [3.0 - n / 10 for n in range(12)]


def told(
    store: Store,
    losses: Sequence[float | None] = FALLING,
    util: float | None = 92,
    used_mib: int = 12_000,
    windows: int = 12,
) -> list[dict[str, Any]]:
    """What is advised of a training stage with these losses on a card as busy as that."""
    with store.write() as session:
        books = Books.open(session)
        seq = 0
        for n in range(max(len(losses), windows)):
            if n < windows:
                seq += 1
                card = {"util_mean": util, "mem_used_mib": used_mib, "mem_total_mib": 24_000}
                books.tell("gpu", seq, after_s=n * 10, cards=[card])
            if n < len(losses):
                seq += 1
                books.tell("progress", seq, after_s=n * 10, step=n, loss=losses[n])
    found: list[dict[str, Any]] = ask(store, "explain", job="kefu")["advice"]
    return found


@pytest.mark.parametrize(
    ("util", "code"),
    [
        (49, {"code": "gpu_waits", "gpu_util_percent": 49}),
        (50, {"code": "gpu_below_par", "gpu_util_percent": 50}),
        (59.4, {"code": "gpu_below_par", "gpu_util_percent": 59}),
        (60, None),
        (None, None),
    ],
)
def test_a_card_that_is_not_busy_waits_for_something(
    store: Store, util: float | None, code: dict[str, Any] | None
) -> None:
    """Below 50 % most likely for its data, below 60 % for something; where nothing is known, no."""
    assert told(store, util=util) == ([code] if code else [])


def test_a_few_windows_are_too_few(store: Store) -> None:
    """The first step compiles and fills."""
    assert told(store, util=10, windows=advice.FEWEST_WINDOWS - 1) == []


def test_windows_before_the_first_step_and_after_the_last_are_not_training(store: Store) -> None:
    """Downloading and saving are no sign of slow data."""
    with store.write() as session:
        books = Books.open(session)
        for n in range(30):
            busy = 10 <= n < 20
            books.tell("gpu", 2 * n + 1, after_s=n, cards=[{"util_mean": 95 if busy else 0}])
            if busy:
                books.tell("progress", 2 * n + 2, after_s=n, step=n, loss=3.0 - n / 20)
    assert ask(store, "explain", job="kefu")["advice"] == []


@pytest.mark.parametrize(("used_mib", "percent"), [(19_200, None), (19_500, 81), (23_900, 100)])
def test_memory_that_is_nearly_full_is_told(
    store: Store, used_mib: int, percent: int | None
) -> None:
    """Above 80 %, and not at it."""
    found = told(store, used_mib=used_mib)
    assert found == (
        [{"code": "memory_is_tight", "gpu_memory_percent": percent}] if percent else []
    )


@pytest.mark.parametrize(
    ("losses", "codes"),
    [
        ([2.0] * 20, ["loss_is_flat"]),
        ([2.0 + n / 100 for n in range(20)], ["loss_is_flat"]),
        ([2.0 - n / 20 for n in range(20)], ["loss_is_low"]),
        ([1.2] * 20, ["loss_is_flat", "loss_is_low"]),
        ([2.0] * 9, []),
        ([None] * 20, []),
        (FALLING, []),
    ],
)
def test_a_loss_that_does_not_fall_and_one_that_is_low(
    store: Store, losses: list[float | None], codes: list[str]
) -> None:
    """Judged by the first fifth and the last; a few lines say nothing."""
    assert [each["code"] for each in told(store, losses)] == codes


def test_data_on_a_network_mount_is_told(store: Store) -> None:
    """By what first contact found; a local disk is nothing to speak of."""
    rows = [
        {"check": "disk", "verdict": "warn", "seen": "10 MiB free"},
        {"check": "data in data", "verdict": "warn", "seen": "nfs4 from nas:/pool"},
        {"check": "data in more", "verdict": "ok", "seen": "ext4 from /dev/vdb"},
    ]
    with store.write() as session:
        job_id = Books.open(session).job.id
        add_event(session, job_id, START_MS, "first_contact", "old", {"rows": rows[:1]})
        add_event(session, job_id, START_MS, "first_contact", "2 of 3 are fine", {"rows": rows})
    assert ask(store, "explain", job="kefu")["advice"] == [
        {"code": "data_on_network", "seen": "nfs4 from nas:/pool"}
    ]


def test_only_this_attempts_records_count(store: Store) -> None:
    """What an earlier attempt did on a slow disk is history."""
    with store.write() as session:
        books = Books.open(session, first_seq=100)
        for n in range(20):
            books.tell("progress", n + 1, after_s=n, step=n, loss=2.0)
    assert ask(store, "explain", job="kefu")["advice"] == []


def test_explain_says_what_was_saved_and_what_it_cost(store: Store) -> None:
    """Where the adapter is, what was spent, and what the disk goes on costing."""
    with store.write() as session:
        books = a_night(session, every_s=300)
        books.instance.bill_micros = 44_000_000
    found = ask(store, "explain", job="kefu")
    (adapter,) = found["saved"]
    assert (adapter["name"], adapter["path"]) == ("adapter", "artifacts/kefu/adapter")
    assert adapter["home_at"] is not None
    assert found["cost"] == {
        "spent_yuan": "44.00",  # the bill, which is the larger
        "cap_yuan": "60.00",
        "idle_yuan": "0.00",
        "disk_yuan_per_day": "0.864",
    }
    assert [each["code"] for each in found["advice"]] == ["loss_is_low"]


def test_of_checkpoints_the_newest_complete_one_of_each_stage_is_told(store: Store) -> None:
    """The others are what it grew out of."""
    from costguard.store.models import Artifact

    with store.write() as session:
        books = Books.open(session)
        for step, complete in ((10, True), (20, True), (30, False)):
            session.add(
                Artifact(
                    job_id=books.job.id,
                    stage=0,
                    name=f"checkpoint-{step}",
                    kind="checkpoint",
                    step=step,
                    complete=complete,
                    files_json="[]",
                    seen_ms=START_MS + END_S,
                )
            )
    (saved,) = ask(store, "explain", job="kefu")["saved"]
    assert (saved["name"], saved["home_at"]) == ("checkpoint-20", None)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            {"code": "gpu_waits", "gpu_util_percent": 31},
            ["31 %", "dataloader_num_workers", "local"],
        ),
        ({"code": "gpu_below_par", "gpu_util_percent": 55}, ["55 %", "60 %"]),
        ({"code": "memory_is_tight", "gpu_memory_percent": 91}, ["91 %", "cutoff_len"]),
        (
            {"code": "loss_is_flat", "loss_first": 2.01, "loss_last": 2.0},
            ["2.01", "2.00", "prompt template", "learning_rate", "epoch"],
        ),
        ({"code": "loss_is_low", "loss_last": 1.31}, ["1.31", "1.5", "hint", "not a verdict"]),
        ({"code": "data_on_network", "seen": "nfs from x"}, ["nfs from x", "own disk"]),
        ({"code": "of_a_later_version"}, ["of_a_later_version"]),
    ],
)
def test_each_code_has_words_that_say_what_to_do(item: dict[str, Any], words: list[str]) -> None:
    """With the figures in them; a code of a later version is shown as it is."""
    assert all(word in advice_text(item) for word in words)
