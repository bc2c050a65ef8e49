"""What the machine offers, looked at once before anything is uploaded or paid for."""

from __future__ import annotations

import os
import platform
import shutil
import time
from typing import TYPE_CHECKING, Any

from costguard.agent import llamafactory
from costguard.agent.gpu import MIB, GpuSampler
from costguard.agent.interpreters import Wanted, find_python

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from costguard.agent.interpreters import Found

NVML_WAIT_S = 10.0
NVML_SAMPLE_S = 0.05


def probe(found: Found, env: Mapping[str, str], directory: Path) -> dict[str, Any]:
    """Python, processors, memory, disk, cards, and which modules the training's Python has.

    `found`: the Python that was looked for. `needs.missing` names what no interpreter here has
    all of; `modules` are looked up, not imported: None is missing, "" is there without a version.
    """
    chosen, missing = found.chosen, found.missing
    shown = chosen or found.base or find_python(Wanted(), env, directory).chosen
    return {
        "agent_python": platform.python_version(),
        "python": None if shown is None else {"path": shown.path, "version": shown.version},
        "modules": {} if shown is None else dict(shown.modules),
        "needs": {"python": None if chosen is None else chosen.path, "missing": missing},
        "llamafactory": llamafactory.find(None if shown is None else shown.path, env),
        "cpu_count": os.cpu_count(),
        "memory_mib": memory_mib(),
        "disk_free_mib": shutil.disk_usage(directory).free // MIB,
        "machine": platform.machine(),
        "system": platform.system(),
        "at_ms": time.time_ns() // 1_000_000,
        **cards(),
    }


def memory_mib() -> int | None:
    """The machine's memory, or None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    except (OSError, ValueError):
        return None


def cards() -> dict[str, Any]:
    """`nvml` and `cards` as in a `gpu` message, from one short look."""
    sampler = GpuSampler(NVML_SAMPLE_S, lambda: time.monotonic_ns() // 1_000_000)
    state = sampler.start(NVML_WAIT_S)
    time.sleep(2 * NVML_SAMPLE_S if state["state"] == "ok" else 0)
    window = sampler.window()
    sampler.close()
    return {"nvml": state, "cards": window["cards"]}
