"""A home with books in it: jobs, instances, charges and bills, in whole yuan and seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.core.tariff import Tariff, paused_micros, running_micros
from costguard.report.documents import read_answer
from costguard.store import ledger
from costguard.store.ledger import Caps, Place
from costguard.store.models import Instance, Job, LeaseRow, PowerInterval, Telemetry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.database import Store

YUAN = 1_000_000
ZONE = ZoneInfo("Asia/Shanghai")
START_MS = 1_795_536_000_000  # 2026-11-24T16:00:00Z, midnight in Shanghai
NOW_MS = START_MS + 3_600_000
MONTH = "2026-11"


def ask(store: Store, do: str, pid: int | None = None, **args: Any) -> dict[str, Any]:
    """One document, as the daemon's socket or the command line gives it."""
    with store.read() as session:
        return read_answer(session, do, args, NOW_MS, ZONE, Caps(), pid)


@dataclass
class Books:
    """One job on one instance, in an open session."""

    session: Session
    job: Job
    instance: Instance
    lease: LeaseRow
    posted_s: int = 0

    @classmethod
    def open(
        cls,
        session: Session,
        name: str = "kefu",
        *,
        cap_yuan: int = 80,
        price_yuan: int = 15,
        quantum_s: int = 1,
        gpu: str = "RTX 3090",
        **given: Any,
    ) -> Books:
        """A training job with an instance and an open lease that holds nothing yet."""
        wish = InstanceWish(provider="local", gpu=gpu)
        spec = JobSpec(name, "p", cap_yuan * YUAN, False, wish, (Run(("x",)),))
        job = Job(
            name=name,
            project="p",
            spec_json=spec.to_json(),
            submit_key=f"{name}-{id(session)}-{session.query(Job).count()}",
            created_ms=START_MS,
            cap_micros=cap_yuan * YUAN,
            **{"state": "training", "phase": "train", **given},
        )
        session.add(job)
        session.flush()
        instance = Instance(
            guest_stop="proven",
            job_id=job.id,
            provider="local",
            provider_id=f"i-{job.id}",
            tag=f"tag-{job.id}",
            gpu=gpu,
            price_micros_per_hour=price_yuan * YUAN,
            quantum_s=quantum_s,
            power="running",
        )
        lease = LeaseRow(
            job_id=job.id,
            seq=1,
            state="open",
            started_utc_ms=START_MS,
            started_boot_ms=0,
            end_utc_ms=NOW_MS + 900_000,
            end_boot_ms=0,
            armed_end_utc_ms=NOW_MS + 600_000,
            boot_id="b",
            latency_ms=0,
            months=MONTH,
            final=False,
        )
        session.add_all([instance, lease])
        session.flush()
        return cls(session, job, instance, lease)

    def reserve(self, yuan: int) -> None:
        """Promise so much to the lease."""
        ledger.reserve(self.session, self.job, self.lease, yuan * YUAN, Caps(), START_MS, MONTH)
        self.lease.seq += 1

    def interval(self, kind: str = "running", after_s: int = 0) -> PowerInterval:
        """An open interval at the instance's price."""
        price = self.instance.price_micros_per_hour
        interval = PowerInterval(
            instance_id=self.instance.id,
            job_id=self.job.id,
            kind=kind,
            price_micros_per_hour=price if kind == "running" else 36_000,
            quantum_s=self.instance.quantum_s,
            started_ms=START_MS + after_s * 1_000,
            anchor_utc_ms=START_MS,
            anchor_boot_ms=0,
            anchor_boot_id="b",
            seen_to_ms=START_MS,
            metered_to_ms=START_MS + after_s * 1_000,
        )
        self.session.add(interval)
        self.session.flush()
        return interval

    def run_to(
        self, interval: PowerInterval, to_s: int, *, phase: str = "train", stage: int = 0
    ) -> None:
        """Meter the interval up to this second after the start, as a pass of the daemon does."""
        to_ms = START_MS + to_s * 1_000
        lasted_ms = to_ms - interval.started_ms
        price = interval.price_micros_per_hour
        if interval.kind == "disk":
            owed = paused_micros(Tariff(0, 1, price), lasted_ms)
        else:
            owed = running_micros(Tariff(price, interval.quantum_s), 0, lasted_ms)
        lease = self.lease if interval.kind == "running" else None
        place = Place(stage, phase)
        ledger.charge(self.session, self.job, interval, lease, owed, to_ms, place, to_ms, MONTH)

    def tell(self, kind: str, seq: int, *, after_s: int = 0, **fields: Any) -> None:
        """A journal record of the agent, as it was stored."""
        at_ms = START_MS + after_s * 1_000
        record = {"t": kind, "seq": seq, "at_ms": at_ms, "boot_ms": after_s * 1_000, **fields}
        self.session.add(
            Telemetry(
                job_id=self.job.id,
                stage=self.job.stage,
                seq=seq,
                kind=kind,
                at_ms=at_ms,
                received_ms=at_ms + 500,
                data_json=json.dumps({k: v for k, v in record.items() if v is not None}),
            )
        )
        self.session.flush()
