from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from costguard.core.contact import Needs, judge_contact, table, version_of, worst

GOOD: dict[str, Any] = {
    "nvml": {"state": "ok", "detail": "", "driver": "535.129.03", "cuda": "12.2", "cards": 1},
    "cards": [
        {
            "index": 0,
            "name": "NVIDIA GeForce RTX 3090",
            "mem_used_mib": 120,
            "mem_total_mib": 24576,
            "pids": [],
            "capability": [8, 6],
        }
    ],
    "python": {"path": "/opt/conda/bin/python3", "version": "3.10.14"},
    "torch": {"version": "2.6.0+cu121", "cuda": "12.1", "sees_cuda": True},
    "versions": {"torch": "2.6.0+cu121", "peft": "0.15.2", "bitsandbytes": "0.49.0"},
    "disk_free_mib": 80_000,
    "hosts": {"modelscope.cn": {"ok": True, "ms": 41, "error": ""}},
    "clock_offset_ms": 120,
    "mounts": {"data": {"type": "ext4", "source": "/dev/vdb", "network": False}},
}
NEEDS = Needs(
    bf16=True,
    vram_mib=20_000,
    model_mib=15_000,
    checkpoints_mib=2_000,
    versions={"torch": "2.6", "peft": "0.15", "bitsandbytes": "0.49"},
    hosts=("modelscope.cn",),
    data=("data",),
)

BLIND_TORCH = {**GOOD["torch"], "sees_cuda": False}


def verdict(check: str, needs: Needs = NEEDS, **changed: Any) -> str:
    """The verdict of one row when some facts are other than good."""
    rows = judge_contact({**GOOD, **changed}, needs)
    return next(row.verdict for row in rows if row.check == check)


def card(**changed: Any) -> list[dict[str, Any]]:
    """The good card, changed."""
    return [{**GOOD["cards"][0], **changed}]


def test_a_good_instance_is_good_in_every_row() -> None:
    """One row a check, in order, each with what was seen."""
    rows = judge_contact(GOOD, NEEDS)
    assert [row.check for row in rows] == [
        *("driver", "cards", "python", "torch sees CUDA", "torch", "peft", "bitsandbytes"),
        *("bf16", "disk", "network to modelscope.cn", "clock", "data in data"),
    ]
    assert {row.verdict for row in rows} == {"ok"}
    assert all(row.seen for row in rows)
    assert worst(rows) == "ok"


@pytest.mark.parametrize(
    ("check", "changed", "expected"),
    [
        ("driver", {"nvml": {"state": "absent", "detail": "no library"}}, "fail"),
        ("driver", {"nvml": {"state": "error", "detail": "hangs"}}, "unknown"),
        ("driver", {"nvml": {**GOOD["nvml"], "cuda": "11.8"}}, "warn"),
        ("driver", {"nvml": {**GOOD["nvml"], "cuda": "11.8"}, "torch": BLIND_TORCH}, "fail"),
        ("driver", {"nvml": {**GOOD["nvml"], "cuda": "12.0"}}, "warn"),
        ("driver", {"torch": None}, "ok"),
        ("cards", {"cards": card(mem_used_mib=5_000)}, "fail"),
        ("cards", {"cards": card(mem_used_mib=3_000)}, "warn"),
        ("cards", {"cards": card(mem_used_mib=None)}, "unknown"),
        ("cards", {"cards": [], "nvml": {"state": "ok"}}, "unknown"),
        ("cards", {"nvml": {"state": "lost", "detail": "card 0: GPU is lost"}}, "fail"),
        ("cards", {"nvml": {"state": "absent"}}, "fail"),
        ("python", {"python": None}, "fail"),
        ("python", {"python": {"path": "p", "version": "3.9.2"}}, "fail"),
        ("torch sees CUDA", {"torch": None}, "fail"),
        ("torch sees CUDA", {"torch": {"error": "ImportError: libcudart"}}, "fail"),
        ("torch sees CUDA", {"torch": {**GOOD["torch"], "sees_cuda": False}}, "fail"),
        ("torch sees CUDA", {"torch": {"version": "2.6"}}, "unknown"),
        ("peft", {"versions": {"peft": "0.14.9"}}, "fail"),
        ("peft", {"versions": {"peft": "0.9.1"}}, "fail"),
        ("peft", {"versions": {"peft": ""}}, "unknown"),
        ("peft", {"versions": {}}, "fail"),
        ("bf16", {"cards": card(capability=[7, 5])}, "fail"),
        ("bf16", {"cards": card(capability=None)}, "unknown"),
        ("disk", {"disk_free_mib": 16_999}, "fail"),
        ("disk", {"disk_free_mib": 17_000}, "warn"),
        ("disk", {"disk_free_mib": None}, "unknown"),
        ("network to modelscope.cn", {"hosts": {}}, "unknown"),
        ("network to modelscope.cn", {"hosts": {"modelscope.cn": {"ok": False}}}, "warn"),
        ("clock", {"clock_offset_ms": None}, "unknown"),
        ("clock", {"clock_offset_ms": -5_000}, "warn"),
        ("clock", {"clock_offset_ms": 300_000}, "warn"),
        ("data in data", {"mounts": {}}, "unknown"),
        ("data in data", {"mounts": {"data": {"type": "ext4", "exists": False}}}, "fail"),
        (
            "data in data",
            {"mounts": {"data": {"type": "nfs4", "source": "nas:/x", "network": True}}},
            "warn",
        ),
    ],
)
def test_each_check_has_its_verdict(check: str, changed: dict[str, Any], expected: str) -> None:
    """What could not be found out is unknown, neither good nor bad."""
    assert verdict(check, **changed) == expected


def test_a_job_for_the_cpu_needs_no_card() -> None:
    """As the demo's is."""
    needs = Needs(cuda=False)
    rows = judge_contact(
        {**GOOD, "nvml": {"state": "absent"}, "cards": [], "torch": {"sees_cuda": False}}, needs
    )
    assert {row.verdict for row in rows} == {"ok"}


def test_an_older_card_is_warned_about_where_bf16_is_not_asked_for() -> None:
    """It may still train something else."""
    needs = Needs(vram_mib=1_000)
    assert verdict("bf16", needs, cards=card(capability=[7, 5])) == "warn"


def test_hidden_processes_on_a_card_in_use_are_unknown_never_none() -> None:
    """A container shows no process ids: who it is cannot be said, that somebody is can."""
    rows = judge_contact({**GOOD, "cards": card(mem_used_mib=3_000, pids=None)}, NEEDS)
    row = next(row for row in rows if row.check == "cards")
    assert "hidden from us" in row.seen


def test_a_job_that_asks_for_no_memory_takes_any_card() -> None:
    """Unknown or little, it is not asked for."""
    for used in (None, 20_000):
        assert verdict("cards", Needs(), cards=card(mem_used_mib=used)) in ("ok", "warn")


def test_two_cards_are_wanted_and_one_is_there() -> None:
    """The number counts too."""
    assert verdict("cards", Needs(cards=2)) == "fail"


def test_nothing_known_is_nothing_said() -> None:
    """An empty report has no good row but those that ask for nothing."""
    rows = judge_contact({}, NEEDS)
    assert {row.verdict for row in rows} == {"fail", "unknown"}


def test_the_table_is_for_a_terminal() -> None:
    """Columns, and what to do below a row that is not well."""
    lines = table(judge_contact({**GOOD, "disk_free_mib": 10}, NEEDS))
    (at,) = [number for number, line in enumerate(lines) if line.startswith("fail")]
    assert "disk" in lines[at]
    said = "wanted: 15000 MiB for the model + 2000 MiB for the checkpoints, 17000 MiB to come"
    assert said in lines[at]
    assert lines[at + 1].strip().startswith("-> take a larger data disk")
    assert worst(judge_contact({**GOOD, "disk_free_mib": 10}, NEEDS)) == "fail"


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.6.0+cu124", (2, 6, 0)), ("12.2", (12, 2)), ("dev", ()), (None, ()), ("", ())],
)
def test_versions_are_compared_by_their_numbers(text: str | None, version: tuple[int, ...]) -> None:
    """0.9 is older than 0.15."""
    assert version_of(text) == version


def test_the_jobs_own_folder_is_called_so() -> None:
    """A dot would tell nobody anything."""
    mounts = {".": {"type": "nfs4", "source": "nas:/x", "network": True, "exists": True}}
    row = judge_contact({**GOOD, "mounts": mounts}, Needs(data=(".",)))[-1]
    assert (row.check, row.verdict) == ("the job's folder", "warn")


def test_torch_is_not_asked_where_no_card_is() -> None:
    """Its import costs seconds of rent; a package that was found is enough for a command."""
    rows = judge_contact({**GOOD, "torch": None}, Needs(cuda=False))
    (row,) = [row for row in rows if row.check == "torch sees CUDA"]
    assert (row.verdict, row.seen) == ("ok", "not imported: no card is asked for")


@pytest.mark.parametrize(
    ("there_mib", "free_mib", "expected"),
    [(0, 16_999, "fail"), (5_000, 12_000, "warn"), (5_000, 11_999, "fail"), (13_125, 2_500, "ok")],
)
def test_what_is_there_of_the_model_needs_no_room(
    there_mib: int, free_mib: int, expected: str
) -> None:
    """A begun download goes on; seven eighths of a size that the name tells are all of it."""
    needs = replace(NEEDS, model="a/b-7B")
    room = {"model_mib": there_mib}
    assert verdict("disk", needs, room=room, disk_free_mib=free_mib) == expected


def test_the_sum_is_shown() -> None:
    """So that a person sees what to change."""
    facts = {**GOOD, "room": {"model_mib": 5_000, "saves_mib": 500}, "disk_free_mib": 9_000}
    (row,) = [row for row in judge_contact(facts, NEEDS) if row.check == "disk"]
    assert row.wanted == (
        "15000 MiB for the model (5000 MiB of it there already)"
        " + 2000 MiB for the checkpoints (500 MiB of it there already), 11500 MiB to come"
    )


def test_what_is_there_is_shown_alone_too() -> None:
    """Where checkpoints were not asked for."""
    facts = {**GOOD, "room": {"model_mib": 14_000}}
    (row,) = [row for row in judge_contact(facts, Needs(model_mib=15_000)) if row.check == "disk"]
    assert row.wanted == "15000 MiB for the model (15000 MiB of it there already), 0 MiB to come"


def test_a_cache_on_another_disk_is_judged_by_that_disk() -> None:
    """A home on a small system disk, beside a large data disk."""
    needs = replace(NEEDS, model="a/b-7B")
    room = {"model_mib": 0, "models_free_mib": 14_000}
    rows = judge_contact({**GOOD, "room": room}, needs)
    found = {row.check: (row.verdict, row.wanted) for row in rows if row.check.startswith("disk")}
    assert found == {
        "disk": ("ok", "2000 MiB for the checkpoints"),
        "disk for models": ("fail", "15000 MiB for the model"),
    }


def test_a_model_of_unknown_size_is_unknown_until_it_is_there() -> None:
    """It is neither taken for small nor held against the disk."""
    needs = Needs(model="a/mine", model_mib=0)
    assert verdict("disk", needs) == "unknown"
    assert verdict("disk", needs, room={"model_mib": 900}) == "ok"
