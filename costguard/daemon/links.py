"""The link to the agent: what it is to do over there, and what it has reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.core.snapshot import LinkFacts
from costguard.core.training import fold
from costguard.daemon.host_keys import keys_for, note_shown_key, unknown_key_text
from costguard.daemon.order import agent_spec, holder_spec
from costguard.daemon.preparing import note_preparing
from costguard.remote.link import LinkPlan, SshTarget, Upload
from costguard.store.models import Artifact, Instance, Job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.core.moment import Moment
    from costguard.core.spec import JobSpec
    from costguard.daemon.act import Actor
    from costguard.daemon.memory import JobMemory


def ensure_link(actor: Actor) -> None:
    """One link per instance boot: a new port or host key is a new boot, and a new link."""
    memory, snap = actor.memory, actor.snap
    ssh = memory.ssh
    if ssh is None or snap.instance is None:
        return
    note_shown_key(actor)
    started = snap.instance.started_call
    boot = 0 if started is None else started.utc_ms
    visit = snap.visit
    run = f"{snap.stage}:{memory.attempt}" if visit is None else f"visit-{visit.id}"
    key = f"{snap.instance.id}:{boot}:{run}:{ssh.host}:{ssh.port}:{ssh.host_keys}"
    if memory.link is not None and memory.link_key == key:
        return
    heard = memory.link_facts.heard  # a new boot does not end the silence of a training
    close_link(memory)
    with actor.context.store.read() as session:
        after_seq = session.get_one(Job, actor.job_id).last_seq
        row = session.get_one(Instance, snap.instance.id)
        tag = row.tag
        host_keys, trusts_first = keys_for(session, row, ssh, actor.now())
    if not host_keys and not trusts_first:
        detail = unknown_key_text(snap.spec.instance.provider, f"{ssh.host}:{ssh.port}")
        memory.link_facts = LinkFacts("refused", detail, since=actor.now(), heard=heard)
        return
    work_dir = snap.spec.instance.work_dir or ssh.work_dir
    plan = LinkPlan(
        target=SshTarget(
            ssh.host,
            ssh.port,
            ssh.user,
            host_keys,
            ssh.key_file or actor.context.client_key_path,
            ssh.password,
            trusts_first,
        ),
        job_dir=f"{work_dir}/costguard/{tag}/" + (f"stage-{snap.stage}" if not visit else "visit"),
        uploads=tuple(
            Upload(Path(upload.local), upload.remote)
            for upload in (snap.spec.runs[snap.stage].uploads if visit is None else ())
        ),
        spec=(
            agent_spec(snap.spec, snap.stage, memory.attempt, actor.provider.facts, tag)
            if visit is None
            else holder_spec(f"{tag}/visit-{visit.id}", snap.spec, actor.provider.facts)
        ),
        pull_to=artifacts_home(snap.spec, snap.stage),
        pull_bytes_per_s=snap.spec.pull_bytes_per_s,
        after_seq=after_seq if visit is None else 0,
    )
    memory.holds = visit is not None
    memory.link = actor.context.link(plan, actor.wake)
    memory.link_key = key
    memory.link_facts = LinkFacts(state="connecting", since=actor.now(), heard=heard)
    memory.link.start()


def artifacts_home(spec: JobSpec, stage: int) -> Path:
    """Where a stage's artifacts come home to; a folder for each where there are several."""
    home = Path(spec.pull_to) / spec.name
    return home / f"stage-{stage + 1}" if len(spec.runs) > 1 else home


def close_link(memory: JobMemory) -> None:
    """Let go of the link, if there is one; its threads end by themselves."""
    if memory.link is not None:
        memory.link.close()
    memory.link, memory.link_key = None, ""
    memory.link_facts = LinkFacts()
    memory.pulling.clear()


def drain(memory: JobMemory, now: Moment) -> list[dict[str, Any]]:
    """Take what the link has received into memory; return the results of downloads."""
    pulled: list[dict[str, Any]] = []
    if memory.link is None:
        return pulled
    for message in memory.link.drain():
        kind = message.get("t")
        if kind == "link":
            _note_link(memory, message, now)
        elif kind == "pulled":
            pulled.append(message)
        elif kind == "upload":
            memory.upload = message
        elif kind in ("contact", "install"):
            _note_heard(memory, message, now)
            note_preparing(memory, message)
        elif kind == "host_key":
            memory.shown_key = message
        elif kind in ("heartbeat", "replaced", "probe") or memory.holds:
            _note_heard(memory, message, now)
        else:
            _note_heard(memory, message, now)
            memory.unsaved.append(message)
            memory.training = fold(memory.training, message)
    return pulled


def _note_link(memory: JobMemory, message: Mapping[str, Any], now: Moment) -> None:
    state = str(message.get("state"))
    detail = str(message.get("detail") or "")
    facts = replace(memory.link_facts, state=state, detail=detail, since=now)
    if state != "preparing":
        memory.install = None  # it ended with its line
    if state == "attached":
        # A line that has just come up is heard; its heartbeats are numbered by the agent anew.
        facts = replace(facts, heard=now, heartbeat=None, leased_heartbeat=None)
    memory.link_facts = facts


def _note_heard(memory: JobMemory, message: Mapping[str, Any], now: Moment) -> None:
    if message.get("t") != "heartbeat":
        if memory.link_facts.heard != now:
            memory.link_facts = replace(memory.link_facts, heard=now)
        return
    received = message.get("received_boot_ms")
    at = now if not isinstance(received, int) else now.plus_ms(received - now.boot_ms)
    beat = message.get("n")
    memory.link_facts = replace(memory.link_facts, heard=now, heartbeat=beat, heartbeat_at=at)
    if not memory.holds:  # a visit's agent was started long after the training had ended
        memory.training = fold(memory.training, message)


def artifact_files(row: Artifact) -> list[dict[str, Any]]:
    """The files of an artifact as its manifest lists them."""
    files: list[dict[str, Any]] = json.loads(row.files_json)
    return files
