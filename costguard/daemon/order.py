"""The order that an agent is given: what to run, what it needs, and when it has to end."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from costguard.daemon.room import room_needs

if TYPE_CHECKING:
    from costguard.core.spec import JobSpec, Run
    from costguard.providers.base import ProviderFacts

HEARTBEAT_S = 1.0
FIRST_LEASE_S = 120
# Beside the folders of the jobs, which are named after their tags: the next job finds them there.
ENVIRONMENTS = "../../environments"
CACHES = "../../caches"
HUGGING_FACE = "huggingface.co"


def agent_spec(
    spec: JobSpec, stage: int, attempt: int, facts: ProviderFacts, tag: str
) -> dict[str, Any]:
    """What the agent is told: what to run, and what to do when its lease ends."""
    run, wish = spec.runs[stage], spec.instance
    mirror = {"HF_ENDPOINT": wish.hf_endpoint} if wish.hf_endpoint else {}
    return {
        "run_id": f"{tag}/{stage}" + (f"/{attempt}" if attempt else ""),
        "argv": list(run.argv),
        "cwd": ".",
        "env": {**mirror, **run.env},
        "needs": list(run.needs),
        "least": dict(run.least),
        "python": wish.python,
        "install": _install(spec, run),
        "contact": contact_needs(spec, run),
        "caches": CACHES,
        "output_dir": run.output_dir,
        "expects_adapter": run.expects_adapter,
        "engine": run.engine,
        "config": dict(run.config),
        "files": dict(run.files),
        "progress_pattern": run.progress_pattern,
        "guards": asdict(spec.guards),
        "in_guest_stop": None if facts.in_guest_stop is None else list(facts.in_guest_stop),
        "save_grace_s": run.save_grace_ms / 1000,
        "first_lease_s": FIRST_LEASE_S,
        "telemetry": {
            "sample_s": 1,
            "window_s": spec.telemetry_window_ms / 1000,
            "heartbeat_s": HEARTBEAT_S,
        },
    }


def holder_spec(run_id: str, spec: JobSpec, facts: ProviderFacts) -> dict[str, Any]:
    """What the agent is told for a visit: to hold the instance under its lease, as in a training.

    What it runs only waits. At the lease's end it is ended, and the agent switches the machine off.
    """
    return {
        "run_id": run_id,
        "argv": ["{python}", "-c", "import signal; signal.pause()"],
        "guards": asdict(spec.guards),
        "in_guest_stop": None if facts.in_guest_stop is None else list(facts.in_guest_stop),
        "expects_adapter": False,
        "save_grace_s": 1.0,
        "first_lease_s": FIRST_LEASE_S,
        "telemetry": {"sample_s": 5, "window_s": 60, "heartbeat_s": HEARTBEAT_S},
    }


def contact_needs(spec: JobSpec, run: Run) -> dict[str, Any]:
    """What first contact is to judge the instance by, as `core.contact.Needs` has it.

    A card is asked for where one was rented for a trainer of ours or LLaMA-Factory: a command may
    want none, the local platform has none, and a machine of the user's is what the user says.
    """
    wish = spec.instance
    owned = wish.provider == "local" or (wish.provider.startswith("ssh") and wish.gpu is None)
    card = run.engine != "command" and not owned
    versions = dict(run.least) if card else {k: v for k, v in run.least.items() if k != "torch"}
    return {
        "cuda": card,
        "bf16": card and run.engine == "trainer",
        "cards": wish.gpu_count if card else 1,
        "versions": versions,
        "hosts": [_mirrored(host, wish.hf_endpoint) for host in run.hosts],
        "data": [".", *run.places],
        **room_needs(run),
    }


def _mirrored(host: str, hf_endpoint: str | None) -> str:
    """The host that is asked in truth, with its port where the mirror names one."""
    return urlsplit(hf_endpoint).netloc if host == HUGGING_FACE and hf_endpoint else host


def _install(spec: JobSpec, run: Run) -> dict[str, Any]:
    wish = spec.instance
    return {
        "allowed": wish.install,
        "root": ENVIRONMENTS,
        "requirements": list(run.requirements),
        "packages": list(wish.packages),
        "index": wish.pip_index,
        "within_s": spec.guards.install_within_ms / 1000,
    }
