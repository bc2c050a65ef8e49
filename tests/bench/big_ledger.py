"""`report` and `status` over a ledger of a million entries, and what keeping it costs."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.report.documents import read_answer
from costguard.store import ledger, sums
from costguard.store.database import Store, read_only_session
from costguard.store.head import GENESIS, head_path, read_head
from costguard.store.ledger import Caps
from costguard.store.migrate import upgrade
from costguard.store.models import Job, LedgerEntry
from costguard.store.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from costguard.store.verify import Verification

ENTRIES = 1_000_000
JOBS = 500
OPEN_JOBS = 3  # the newest, which still train
POLL_MS = 15_000
CHARGES_PER_RESERVATION = 30  # a lease of 15 minutes, renewed at half, polled every 15 s
PHASES = ("download", "load", "train", "evaluate", "save")
STAGES = 2
START_MS = 1_780_000_000_000
PRICE_MICROS_PER_HOUR = 15_000_000
CHARGE_MICROS = PRICE_MICROS_PER_HOUR * POLL_MS // 3_600_000
YUAN = 1_000_000
ZONE = ZoneInfo("Asia/Shanghai")
CAPS = Caps(month_micros=100_000 * YUAN, project_micros={"p0": 1_000_000 * YUAN})
RUNS = 7


def measure(entries: int = ENTRIES) -> None:
    """Print how long the documents, a grant's check and a verification take."""
    with tempfile.TemporaryDirectory(prefix="costguard-bench-") as folder:
        database = Path(folder) / "costguard.db"
        began = time.perf_counter()
        build(database, entries)
        size_mib = database.stat().st_size / 2**20
        built_s = time.perf_counter() - began
        print(f"a ledger of {entries:,} entries, {JOBS} jobs: {size_mib:.0f} MiB, {built_s:.0f} s")
        now_ms = START_MS + entries * POLL_MS
        for do in ("report", "status"):
            shown = _median_s(lambda do=do: _ask(database, do, now_ms))  # type: ignore[misc]
            busy = _median_s(lambda do=do: _ask(database, do, now_ms), time.process_time)  # type: ignore[misc]
            print(
                f"{do} over {entries:,} entries: median {shown:.3f} s of {RUNS} (aim: 0.5 s),"
                f" {busy:.3f} s of them the processor's"
            )
        began, busy = time.perf_counter(), time.process_time()
        findings = verified(database).findings
        took_s, busy = time.perf_counter() - began, time.process_time() - busy
        print(
            f"ledger verify over {entries:,} entries: {took_s:.1f} s, {busy:.1f} s of them the"
            f" processor's, {len(findings)} findings"
        )
        shown = _median_s(lambda: _room(database))
        print(f"what a grant has to look up: median {1000 * shown:.1f} ms of {RUNS}")


def verified(database: Path) -> Verification:
    """As `costguard ledger verify` does it."""
    kept = read_head(head_path(database))
    with read_only_session(database) as session:
        return verify(session, kept)


def _median_s(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    times = []
    for _ in range(RUNS):
        began = clock()
        call()
        times.append(clock() - began)
    return median(times)


def _ask(database: Path, do: str, now_ms: int) -> dict[str, Any]:
    """One document by the way of the command line: a connection of its own each time."""
    with read_only_session(database) as session:
        return read_answer(session, do, {}, now_ms, ZONE, CAPS, None)


def _room(database: Path) -> object:
    """The accounts of the newest job, as `reserve` asks for them."""
    with read_only_session(database) as session:
        job = session.get_one(Job, JOBS)
        return ledger.accounts(session, job, CAPS, ("2026-11",))


def build(database: Path, entries: int) -> None:
    """A chained ledger of so many entries, written by plain SQL: the chain is what takes time."""
    upgrade(database)
    with closing(sqlite3.connect(database)) as plain:
        plain.execute("PRAGMA synchronous=OFF")
        for job_id in range(1, JOBS + 1):
            _add_job(plain, job_id)
        columns = ("id", *ledger.HASHED_FIELDS, "hash")
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT INTO ledger ({', '.join(columns)}) VALUES ({marks})"
        plain.executemany(sql, _chained(entries, columns))
        plain.execute(
            "UPDATE power_intervals SET posted_micros = (SELECT sum(amount_micros) FROM ledger"
            " WHERE interval_id = power_intervals.id)"
        )
        plain.commit()
    store = Store(database)
    store.check_head()  # as a daemon does that starts on it: the head is written down
    store.close()


def _add_job(plain: sqlite3.Connection, job_id: int) -> None:
    wish = InstanceWish(provider="local", gpu="RTX 3090")
    spec = JobSpec(f"job{job_id}", f"p{job_id % 10}", 100_000 * YUAN, False, wish, (Run(("x",)),))
    _insert(
        plain,
        "jobs",
        id=job_id,
        version=0,
        name=spec.name,
        project=spec.project,
        spec_json=spec.to_json(),
        submit_key=spec.name,
        created_ms=START_MS,
        state="training" if job_id > JOBS - OPEN_JOBS else "finished",
        wish="run",
        breach=0,
        cap_micros=spec.cap_micros,
        hold_micros=0,
        stage=0,
        last_seq=0,
    )
    _add_instance(plain, job_id)


def _add_instance(plain: sqlite3.Connection, job_id: int) -> None:
    _insert(
        plain,
        "instances",
        id=job_id,
        job_id=job_id,
        provider="local",
        provider_id=f"i-{job_id}",
        tag=f"tag-{job_id}",
        gpu="RTX 3090",
        price_micros_per_hour=PRICE_MICROS_PER_HOUR,
        quantum_s=1,
        paused_micros_per_hour=0,
        power="running",
        stop_calls=0,
        stop_accepted=0,
        was_on=1,
    )
    _insert(
        plain,
        "leases",
        id=job_id,
        job_id=job_id,
        seq=1,
        state="open" if job_id > JOBS - OPEN_JOBS else "settled",
        started_utc_ms=START_MS,
        started_boot_ms=0,
        end_utc_ms=START_MS,
        end_boot_ms=0,
        armed_end_utc_ms=START_MS,
        boot_id="b",
        latency_ms=0,
        months="2026-11",
        final=0,
    )
    _insert(
        plain,
        "power_intervals",
        id=job_id,
        instance_id=job_id,
        job_id=job_id,
        kind="running",
        price_micros_per_hour=PRICE_MICROS_PER_HOUR,
        quantum_s=1,
        started_ms=START_MS,
        anchor_utc_ms=START_MS,
        anchor_boot_ms=0,
        anchor_boot_id="b",
        seen_to_ms=START_MS,
        metered_to_ms=START_MS,
        posted_micros=0,
    )


def _insert(plain: sqlite3.Connection, table: str, **values: object) -> None:
    marks = ", ".join("?" * len(values))
    plain.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", [*values.values()])


def _chained(entries: int, columns: tuple[str, ...]) -> Iterator[list[object]]:
    """The rows in order: one job after the other, a reservation before each run of charges.

    What is left of a settled lease's reservations is settled by its job's last entry.
    """
    previous, held = GENESIS, 0
    each = entries // JOBS
    for number in range(entries):
        job_id, place = min(number // each + 1, JOBS), number % each
        entry = _entry(number, job_id)
        entry.stage = place * STAGES // each
        entry.phase = PHASES[place * STAGES * len(PHASES) // each % len(PHASES)]
        if place == 0:
            held = 0
        if place == each - 1 and job_id <= JOBS - OPEN_JOBS:
            _makes_a_promise(entry, "settle", held)
        elif place % (CHARGES_PER_RESERVATION + 1) == 0:
            _makes_a_promise(entry, "reserve", CHARGE_MICROS * CHARGES_PER_RESERVATION)
        held += sums.held_micros(entry.kind, entry.amount_micros, entry.covered_micros)
        entry.previous_hash = previous
        previous = entry.hash = ledger.entry_hash(entry)
        row: dict[str, object] = {name: getattr(entry, name) for name in columns if name != "id"}
        yield [number + 1, *(row[name] for name in columns if name != "id")]


def _entry(number: int, job_id: int) -> LedgerEntry:
    """A charge of one poll."""
    to_ms = START_MS + number * POLL_MS
    return LedgerEntry(
        at_ms=to_ms,
        job_id=job_id,
        project=f"p{job_id % 10}",
        month=time.strftime("%Y-%m", time.gmtime(to_ms // 1000)),
        kind="charge",
        amount_micros=CHARGE_MICROS,
        covered_micros=CHARGE_MICROS,
        lease_id=job_id,
        interval_id=job_id,
        from_ms=to_ms - POLL_MS,
        to_ms=to_ms,
        key=f"bench:{number}",
        note="running",
    )


def _makes_a_promise(entry: LedgerEntry, kind: str, micros: int) -> None:
    """Make it a reservation, or the end of one."""
    entry.kind, entry.amount_micros, entry.covered_micros = kind, micros, 0
    entry.interval_id = entry.stage = entry.phase = None


if __name__ == "__main__":
    measure(int(sys.argv[1]) if sys.argv[1:] else ENTRIES)
