"""Tier 1's acts: what the daemon does for each action, on books in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from costguard.core import actions as act
from costguard.core.decide import FINAL_STATES, proven_stopped
from costguard.core.moment import elapsed_ms, ms_until
from costguard.core.power import Power
from costguard.core.snapshot import VISIBLE_WITHIN_MS, LinkFacts
from costguard.core.tariff import hold_micros
from costguard.core.terms import opening_tariff
from costguard.daemon.asking import ahead_ms, arm_timer, create_instance, in_our_time
from costguard.daemon.links import close_link
from costguard.daemon.memory import Calls, JobMemory
from costguard.daemon.order import agent_spec
from costguard.daemon.rent import (
    CAPACITY_RETRY_MS,
    UNCLEAR_LOOKS,
    UNLISTED_RETRY_MS,
    is_armed,
)
from costguard.providers.base import (
    Absent,
    CreateRequest,
    InstanceView,
    NoCapacity,
    ProviderError,
    Refused,
    Unclear,
)
from costguard.remote.link import LinkPlan, SshTarget
from costguard.sim.books import DoesNotFit, OpenLease, Purse
from costguard.sim.lean_meter import end_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.core.snapshot import Snapshot
    from costguard.remote.link import Link
    from costguard.sim.lean import LeanHost, LeanJob

NOWHERE = Path("nowhere")


class Halt(Exception):
    """What follows in this pass must not happen."""


def act_on(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    """Do one action."""
    HANDLERS[type(action)](host, job, snap, action)


def _commit(host: LeanHost) -> None:
    """Where a write begins: it may not be possible, and the daemon may die."""
    if host.is_broken:
        raise Halt
    host.world.point("before a commit")
    host.changed()


def _ask_price(host: LeanHost, job: LeanJob, snap: Snapshot, _: act.Action) -> None:
    try:
        quote = host.world.provider.quote(None)
    except ProviderError as error:
        raise Halt from error
    _commit(host)
    job.tariff = quote.tariff
    job.purse.hold_micros = hold_micros(quote.tariff, snap.spec.instance.keep_for_ms)
    host.wake(job.purse.id)


def _grant(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.Grant)
    _commit(host)
    now = host.world.clock.now()
    end, before = now.plus_ms(action.length_ms), job.purse.lease
    armed_ms = 0 if snap.armed_end is None else now.utc_ms + ms_until(snap.armed_end, now)
    if before is None:
        host.books_kept.leases += 1
        lease = OpenLease(host.books_kept.leases, 1, now, end, 0, action.final)
    else:
        lease = replace(before, seq=before.seq + 1, started=now, end=end, final=action.final)
        lease.armed_ms = min(before.armed_ms, armed_ms, end.utc_ms)
    if host.facts.timer_min_lead_ms is None:
        lease.armed_ms = end.utc_ms
    job.purse.lease = lease
    try:
        host.books_kept.reserve(job.purse, action.increment_micros)
        if action.aside_micros:
            host.books_kept.reserve(job.purse, action.aside_micros)
    except DoesNotFit as error:
        job.purse.lease = before
        raise Halt from error
    host.world.point("after a commit")


def _arm_timer(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.ArmTimer)
    assert job.provider_id is not None
    try:
        provider, now = host.world.provider, host.world.clock.now()
        back = arm_timer(provider, job.provider_id, action.timer_at_ms, now)
    except ProviderError:
        return
    lease = job.purse.lease
    if lease is not None and is_armed(
        back, action.timer_at_ms, host.world.provider.facts.timer_step_ms
    ):
        _commit(host)
        if lease.end.utc_ms >= action.end_ms:
            lease.armed_ms = lease.end.utc_ms


# --------------------------------------------------------------------------- renting


def _create(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.Create)
    _commit(host)
    sent, lease = host.world.clock.now(), job.purse.lease
    assert lease is not None, "nothing is rented without a lease"
    job.creates += 1
    job.tag = f"{host.world.tag_prefix}{job.purse.id}-{job.creates}"
    job.started_call, job.intents = sent, frozenset({"create"})
    grace_ms = snap.spec.runs[0].save_grace_ms
    job.made[job.tag] = (sent, job.tariff, lease.end.utc_ms + grace_ms)
    job.memory.calls, job.memory.reads = Calls(last=sent), []
    host.world.point("after a commit")
    wish = snap.spec.instance
    request = CreateRequest(
        name=snap.spec.name,
        tag=job.tag,
        gpu=wish.gpu,
        gpu_count=wish.gpu_count,
        image=wish.image,
        region=wish.region,
        ssh_public_key="",
        stop_at_ms=lease.started.utc_ms + action.timer_after_ms,
        max_price_micros_per_hour=None,
    )
    try:
        view = create_instance(host.world.provider, request, sent)
    except Unclear as error:
        raise Halt from error
    except Refused as error:
        _give_up(host, job, CAPACITY_RETRY_MS if isinstance(error, NoCapacity) else None)
        raise Halt from error
    _adopt(host, job, view)


def _adopt(host: LeanHost, job: LeanJob, view: InstanceView) -> None:
    _commit(host)
    job.provider_id, job.power, job.tariff = view.id, view.read.power, view.tariff
    job.intents = frozenset()
    lease = job.purse.lease
    grace_ms = job.spec.runs[0].save_grace_ms
    wanted_ms = 0 if lease is None else lease.end.utc_ms + grace_ms
    step_ms = host.world.provider.facts.timer_step_ms
    if lease is not None and is_armed(view.read.timer_at_ms, wanted_ms, step_ms):
        lease.armed_ms = lease.end.utc_ms
    job.memory.read_at = None
    host.world.point("after a commit")


def _resolve_create(host: LeanHost, job: LeanJob, snap: Snapshot, _: act.Action) -> None:
    assert job.tag is not None
    now = host.world.clock.now()
    try:
        found = host.world.provider.list_tagged(job.tag, now)
    except ProviderError:
        job.memory.resolving_since = None
        return
    mine = sorted((view for view in found if view.tag == job.tag), key=lambda v: v.created_ms or 0)
    host.owed_looks = max(host.owed_looks, UNCLEAR_LOOKS)
    if mine:
        _adopt(host, job, in_our_time(mine[0], ahead_ms(host.world.provider, now)))
        for double in mine[1:]:
            take_stray(host, job, double)
        return
    since = job.memory.resolving_since = job.memory.resolving_since or now
    if elapsed_ms(since, now) >= VISIBLE_WITHIN_MS:
        _give_up(host, job, UNLISTED_RETRY_MS)
        job.memory.resolving_since = None


def _give_up(host: LeanHost, job: LeanJob, again_ms: int | None) -> None:
    _commit(host)
    now = host.world.clock.now()
    job.tag, job.intents, job.started_call = None, frozenset(), None
    if job.purse.lease is not None:
        host.books_kept.settle(job.purse)
    job.retry_at_ms = None if again_ms is None else now.utc_ms + again_ms
    if again_ms is None:
        job.reason, job.verdict_at = "platform", now
    host.changed()


def take_strays(host: LeanHost) -> None:
    """Put instances of ours that no job drives under guard."""
    now = host.world.clock.now()
    try:
        views = host.world.provider.list_tagged(host.world.tag_prefix, now)
    except ProviderError:
        host.owed_looks = max(host.owed_looks, 1)
        return
    for view in views:
        parent = host.jobs.get(host.world.job_of_tag(view.tag))
        if parent is not None:
            take_stray(host, parent, view)


def take_stray(host: LeanHost, parent: LeanJob, view: InstanceView) -> None:
    """A job of its own, that can only be stopped; once, and only if it is one."""
    jobs = host.jobs.values()
    known = any(job.provider_id == view.id for job in jobs)
    unclear = any(job.tag == view.tag and job.provider_id is None for job in jobs)
    if known or unclear:
        return
    if host.is_broken:
        host.owed_looks = max(host.owed_looks, 1)
        return
    number = len(host.jobs) + 1
    name = f"{parent.spec.name}.stray-{view.id}"
    now = host.world.clock.now()
    called, tariff, made_to_end_ms = parent.made[view.tag]
    stray = replace(
        parent,
        spec=replace(parent.spec, name=name),
        purse=Purse(number, name, 0, project=parent.spec.project),
        created=now,
        state="pausing",
        wish="run",
        reason="platform",
        verdict_at=now,
        memory=JobMemory(),
        tariff=opening_tariff(tariff or view.tariff, view.tariff, now.utc_ms),
        tag=f"{view.tag}/{view.id}",
        provider_id=view.id,
        power=view.read.power,
        started_call=called,
        was_started=True,
        made_to_end_ms=made_to_end_ms,
        maker=parent.purse.id,
        stopped_seen=False,
        released=False,
        interval=None,
        ended=None,
        ended_told_ms=None,
        seen_off=None,
        disk=None,
        posted_by_machine=0,
        artifacts={},
        retry_at_ms=None,
    )
    host.world.notice("alarm", parent.spec.name, f"{view.id} is a stray and is being stopped")
    host.add(stray)


# --------------------------------------------------------------------------- the line


def _ensure_link(host: LeanHost, job: LeanJob, snap: Snapshot, _: act.Action) -> None:
    memory, ssh, number = job.memory, job.memory.ssh, job.purse.id
    if ssh is None or job.tag is None:
        return
    key = f"{ssh.host}:{ssh.port}:{ssh.host_keys}"
    if memory.link is not None and memory.link_key == key:
        return
    heard = memory.link_facts.heard
    close_link(memory)
    plan = LinkPlan(
        target=SshTarget(ssh.host, ssh.port, ssh.user, ssh.host_keys, NOWHERE),
        job_dir=job.tag,
        uploads=(),
        spec=agent_spec(snap.spec, 0, 0, host.facts, job.tag),
        pull_to=NOWHERE,
        after_seq=job.last_seq,
    )
    memory.link = cast("Link", host.world.line.open(plan, lambda: host.wake(number)))
    memory.link_key = key
    memory.link_facts = LinkFacts(state="connecting", since=host.world.clock.now(), heard=heard)
    memory.link.start()


def _send_lease(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.SendLease)
    end, lease, heard = snap.armed_end, snap.lease, snap.link.heartbeat_at
    link = job.memory.link
    if end is None or lease is None or heard is None or link is None:
        return
    valid_ms = min(end.utc_ms - heard.utc_ms, end.boot_ms - heard.boot_ms)
    if end.boot_id != heard.boot_id or valid_ms <= 0:
        return
    name = f"{lease.id}.{lease.cut}" if lease.cut else f"{lease.id}"
    message = {"t": "lease", "id": name, "heartbeat": action.heartbeat}
    if link.send({**message, "valid_ms": valid_ms, "alone": action.alone}):
        job.memory.note_leased(action.heartbeat)


def _save(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.Save)
    link = job.memory.link
    message = {"t": "stop", "id": "stop", "save": True, "grace_s": action.grace_ms / 1000}
    if link is not None and link.send(message):
        job.memory.note_stop_sent()


def _pull(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.Pull)
    name = next(n for n, facts in job.artifacts.items() if facts.id == action.artifact_id)
    if job.memory.link is not None:
        job.artifacts[name] = replace(job.artifacts[name], pulling=True)
        job.memory.link.pull(name, [])


# --------------------------------------------------------------------------- ending


def _conclude(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    """The verdict is kept in memory where it cannot be written, and the pass goes on."""
    assert isinstance(action, act.Conclude)
    host.world.notice("info", job.spec.name, f"{action.verdict.reason}: {action.verdict.text}")
    if job.reason is None:
        job.reason, job.verdict_at = action.verdict.reason, host.world.clock.now()
    host.changed()


def _stop_power(host: LeanHost, job: LeanJob, snap: Snapshot, _: act.Action) -> None:
    assert job.provider_id is not None
    calls = job.memory.calls
    sent = host.world.clock.now()
    job.memory.calls = Calls(sent, calls.stop_calls + 1, False, calls.was_on)
    try:
        host.world.provider.stop(job.provider_id)
        job.memory.calls.stop_accepted = True
    except ProviderError as error:
        host.world.notice("alarm", job.spec.name, f"the stop call failed: {error}")


def _release(host: LeanHost, job: LeanJob, snap: Snapshot, _: act.Action) -> None:
    assert job.provider_id is not None
    try:
        host.world.provider.release(job.provider_id)
    except Absent:
        pass  # gone already, as an earlier unclear call may have left it
    except ProviderError:
        return
    _commit(host)
    end_interval(host, job)
    job.released, job.state, job.purse.hold_micros = True, "released", 0


def _alarm(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.Alarm)
    host.world.notice("alarm", job.spec.name, action.kind)


def _set_state(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.SetState)
    if not host.is_broken and job.state not in FINAL_STATES and job.state != action.state:
        job.state = action.state
        host.changed()


def _finish(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.Finish)
    assert snap.instance is None or proven_stopped(snap), "I4: not seen stopped"
    if job.memory.unmetered:
        raise Halt
    _commit(host)
    if job.purse.lease is not None:
        host.books_kept.settle(job.purse)
    job.stopped_seen, job.state = job.tag is not None, action.state
    if job.tag is None:
        job.purse.hold_micros = 0
    close_link(job.memory)
    host.changed()
    host.world.judge.on_final(next(each for each in host.books() if each.id == job.purse.id))


def _power_on(host: LeanHost, job: LeanJob, snap: Snapshot, _: act.Action) -> None:
    """Switch it on again, or learn that there is no capacity; an unclear call is read, not made."""
    assert job.provider_id is not None
    _commit(host)
    sent = host.world.clock.now()
    was_started = job.was_started and not job.stopped_seen
    if job.stopped_seen:
        job.started_call = sent
    job.was_started = True
    job.stopped_seen, job.retry_at_ms = False, None
    is_on = job.power in (Power.STARTING, Power.RUNNING)
    job.memory.calls, job.memory.reads, job.memory.read_at = Calls(last=sent), [], None
    host.world.point("after a commit")
    if is_on:
        return
    try:
        host.world.provider.start(job.provider_id)
    except NoCapacity as error:
        job.was_started = was_started
        job.retry_at_ms = sent.utc_ms + CAPACITY_RETRY_MS
        raise Halt from error
    except ProviderError as error:
        host.world.notice("warning", job.spec.name, f"the start is unclear: {error}")


def _shorten(host: LeanHost, job: LeanJob, snap: Snapshot, action: act.Action) -> None:
    assert isinstance(action, act.Shorten)
    _commit(host)
    lease = job.purse.lease
    assert lease is not None, "only an open lease can be cut"
    end = host.world.clock.now().plus_ms(action.length_ms)
    lease.end, lease.final, lease.cut = end, True, lease.cut + 1
    lease.armed_ms = min(lease.armed_ms, end.utc_ms)
    host.wake(job.purse.id)


def _rest(host: LeanHost, job: LeanJob, snap: Snapshot, _: act.Action) -> None:
    _commit(host)
    if job.purse.lease is not None:
        host.books_kept.settle(job.purse)
    job.stopped_seen = True


HANDLERS: dict[type, Callable[[LeanHost, LeanJob, Snapshot, act.Action], None]] = {
    act.AskPrice: _ask_price,
    act.Grant: _grant,
    act.Create: _create,
    act.ResolveCreate: _resolve_create,
    act.ArmTimer: _arm_timer,
    act.EnsureLink: _ensure_link,
    act.SendLease: _send_lease,
    act.Save: _save,
    act.Pull: _pull,
    act.Conclude: _conclude,
    act.StopPower: _stop_power,
    act.Release: _release,
    act.Alarm: _alarm,
    act.SetState: _set_state,
    act.Finish: _finish,
    act.PowerOn: _power_on,
    act.Rest: _rest,
    act.Shorten: _shorten,
}
