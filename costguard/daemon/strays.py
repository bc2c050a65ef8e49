"""Strays: instances of ours that no job drives.

The platform made two of one create call, or showed one only after we had given it up. Each becomes
a job of its own that can only be stopped. What holds for every job then holds for it: it is
charged, as overrun; stopped for as long as it takes, ever louder; and believed to be off only
when it was seen (I2 to I4).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.core.tariff import price_micros
from costguard.daemon.load import job_spec, open_lease
from costguard.store.events import add_event
from costguard.store.models import Instance, Intent, Job, LeaseRow, LedgerEntry, PowerInterval
from costguard.store.tariffs import set_tariff, tariff_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.core.tariff import Tariff
    from costguard.daemon.context import Context
    from costguard.providers.base import InstanceView


STRAY_KEY = "stray:"


def is_stray(session: Session, view: InstanceView) -> bool:
    """Whether no row knows this instance of ours, nor any create call that may still be its own.

    To be asked after the platform was: what was rented since is then known here.
    """
    rows = session.scalars(select(Instance)).all()
    unclear = {row.tag for row in rows if row.provider_id is None}
    return view.tag not in unclear and view.id not in {row.provider_id for row in rows}


def parent_of(session: Session, context: Context, view: InstanceView) -> Job | None:
    """The job that the instance's tag names; None where this database knows no such job."""
    number = view.tag.removeprefix(context.tag_prefix).partition("-")[0]
    return session.get(Job, int(number)) if number.isdecimal() else None


def take_stray(
    context: Context, account: str, parent_id: int | None, view: InstanceView, why: str
) -> None:
    """Put the instance under guard, once, as a job that is being stopped; said aloud.

    `parent_id` None: no job here explains it, and a person wants such ones stopped all the same.
    """
    now, timed = context.clock.now(), context.provider(account).facts.arms_timer_at_create
    with context.store.write() as session:
        if session.scalars(select(Job).where(Job.submit_key == stray_key(view))).first():
            return
        parent = None if parent_id is None else session.get_one(Job, parent_id)
        job = _stopping_job(parent, account, view, why, now)
        session.add(job)
        session.flush()
        intent = select(Intent).where(Intent.key == f"create:{view.tag}")
        called = session.scalars(intent).first()
        row = Instance(
            job_id=job.id,
            provider=account,
            provider_id=view.id,
            tag=f"{view.tag}/{view.id}",
            gpu=view.gpu,
            power=view.read.power.value,
            created_ms=view.created_ms,
            started_call_ms=_started_ms(view, called),
            timer_at_ms=_made_to_end_ms(session, parent, called) if timed else None,
        )
        set_tariff(row, _dearest(session, view, now))
        session.add(row)
        about = job.id if parent is None else parent.id
        add_event(session, about, now.utc_ms, "stray", why, {"id": view.id, "loud": True})
        name = job.name if parent is None else parent.name
    context.notify("alarm", name, f"{why}: {view.id} is being stopped")


def _started_ms(view: InstanceView, called: Intent | None) -> int | None:
    """Since when it may have run for us: our call; what nobody here made, only if it is on."""
    if called is not None:
        return called.created_ms
    return view.created_ms if view.read.power.may_charge else None


def _made_to_end_ms(session: Session, parent: Job | None, called: Intent | None) -> int | None:
    """When the lease under which it was made was to end it: if it is off, it did not run longer."""
    if parent is None or called is None:
        return None
    of_then = select(LedgerEntry.to_ms).where(
        LedgerEntry.job_id == parent.id,
        LedgerEntry.kind == "reserve",
        LedgerEntry.at_ms <= called.created_ms,
    )
    end_ms = session.scalars(of_then.order_by(LedgerEntry.id.desc()).limit(1)).first()
    if end_ms is None:
        return None
    return end_ms + job_spec(parent).runs[parent.stage].save_grace_ms


def _dearest(session: Session, view: InstanceView, now: Moment) -> Tariff:
    """What it is taken to have cost: its price may have fallen since its twin was made."""
    twins = select(PowerInterval).join(Instance).where(Instance.tag == view.tag)
    known = [tariff_of(row) for row in session.scalars(twins) if row.kind == "running"]
    return max((view.tariff, *known), key=lambda tariff: price_micros(tariff, now.utc_ms))


def lease_of_double(session: Session, job: Job, row: PowerInterval) -> LeaseRow | None:
    """The open lease of the job whose create call made this stray too many; else None.

    The lease holds something for that (`aside_micros`), and what its own run then lacks it
    reserves anew, or is cut: the job's cap has to bear what its call has cost.
    """
    if not job.submit_key.startswith(STRAY_KEY):
        return None
    tag = session.get_one(Instance, row.instance_id).tag.partition("/")[0]
    called = session.scalars(select(Intent).where(Intent.key == f"create:{tag}")).first()
    return None if called is None else open_lease(session, called.job_id)


def stray_key(view: InstanceView) -> str:
    """What makes a stray's job the only one of its kind."""
    return f"{STRAY_KEY}{view.id}"


def _stopping_job(
    parent: Job | None, account: str, view: InstanceView, why: str, now: Moment
) -> Job:
    spec = _orphan_spec(account) if parent is None else job_spec(parent)
    name = f"{spec.name}.stray-{view.id}"
    return Job(
        name=name,
        project=spec.project,
        spec_json=replace(spec, name=name).to_json(),
        submit_key=stray_key(view),
        created_ms=now.utc_ms,
        state="pausing",
        cap_micros=0,
        stage=0 if parent is None else parent.stage,
        pause_reason="platform",
        verdict_text=why,
        verdict_json=json.dumps({"tag": view.tag, "id": view.id}),
        verdict_utc_ms=now.utc_ms,
        verdict_boot_ms=now.boot_ms,
        verdict_boot_id=now.boot_id,
    )


def _orphan_spec(account: str) -> JobSpec:
    """What stands for the job that nobody here knows: there is nothing of it to be run."""
    wish = InstanceWish(account, keep_for_ms=0)
    run = Run(argv=("true",), save_grace_ms=0)
    return JobSpec("orphan", "orphans", 0, best_effort=True, instance=wish, runs=(run,))
