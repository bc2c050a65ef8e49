"""First contact: looks at everything that `core/contact.py` judges, once, before money is spent."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent.gpu import NvmlAbsentError, load_nvml
from costguard.agent.mounts import mount_of
from costguard.agent.probe import probe
from costguard.agent.room import room
from costguard.core.contact import Needs, judge_contact, table, worst

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from costguard.agent.interpreters import Found

TORCH_TIMEOUT_S = 180.0
HOST_TIMEOUT_S = 8.0
HTTPS_PORT = 443
# In the training's own Python; the import itself is what has to be seen to work.
LOOK_AT_TORCH = """
import json, time
began = time.monotonic()
import torch
sees = bool(torch.cuda.is_available())
cards = []
if sees:
    for index in range(torch.cuda.device_count()):
        cards.append(list(torch.cuda.get_device_capability(index)))
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "sees_cuda": sees,
                  "capabilities": cards, "seconds": round(time.monotonic() - began, 1)}))
"""


def contact(
    needs: Needs,
    found: Found,
    env: Mapping[str, str],
    directory: Path,
    daemon_utc_ms: int | None,
) -> dict[str, Any]:
    """The `contact` message: what was seen, the table's rows, its worst verdict, and its lines.

    The whole `probe` is in it, so that the machine is looked at once.

    `daemon_utc_ms`: the daemon's time when it asked; the line's delay counts as our clock's.
    """
    at_ms = time.time_ns() // 1_000_000
    probed = probe(found, env, directory)
    python = probed["python"]
    # Where no interpreter has all, the one that is shown is the one whose lacks are told.
    versions = probed["modules"]
    torch = None
    wanted = needs.cuda or "torch" in needs.versions  # its import takes seconds, paid ones
    if wanted and python is not None and versions.get("torch") is not None:
        torch = look_at_torch(python["path"], env, directory)
    facts = {
        "nvml": probed["nvml"],
        "cards": with_capabilities(probed["cards"], torch),
        "python": python,
        "torch": torch,
        "versions": versions,
        "disk_free_mib": probed["disk_free_mib"],
        "room": room(needs, env, directory),
        "hosts": {host: reach(host) for host in needs.hosts},
        "clock_offset_ms": None if daemon_utc_ms is None else at_ms - daemon_utc_ms,
        "mounts": {path: place(directory / Path(path).expanduser()) for path in needs.data},
    }
    rows = judge_contact(facts, needs)
    return {
        "t": "contact",
        "at_ms": at_ms,
        "facts": facts,
        "rows": [asdict(row) for row in rows],
        "verdict": worst(rows),
        "lines": table(rows),
        "probe": probed,
    }


def place(path: Path) -> dict[str, Any] | None:
    """The mount that holds a path, and whether it is there; None where nothing is known of it."""
    mount = mount_of(path)
    exists = os.path.lexists(path)
    return {**(mount or {}), "exists": exists} if mount is not None or not exists else None


def needs_from(raw: Mapping[str, Any]) -> Needs:
    """The order's `contact` object; what is not of the expected kind counts as not said."""
    known = {field.name for field in fields(Needs)}
    given: dict[str, Any] = {}
    for key, value in raw.items():
        if key in ("hosts", "data") and isinstance(value, list):
            given[key] = tuple(str(item) for item in value)
        elif key == "versions" and isinstance(value, dict):
            given[key] = {str(name): str(least) for name, least in value.items()}
        elif key in ("cuda", "bf16"):
            given |= {key: value} if isinstance(value, bool) else {}
        elif key in ("model", "model_cache", "model_dir", "saves"):
            given |= {key: value} if isinstance(value, str) else {}
        elif key in known and isinstance(value, int) and not isinstance(value, bool):
            given[key] = value
    return Needs(**given)


def look_at_torch(python: str, env: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """What torch says of itself and the cards in that Python, or `error`."""
    try:
        done = subprocess.run(
            [python, "-c", LOOK_AT_TORCH],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=TORCH_TIMEOUT_S,
            check=False,
            env=dict(env),
            cwd=cwd,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"import torch did not end within {TORCH_TIMEOUT_S:.0f} s"}
    except OSError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        return told if isinstance(told, dict) else {"error": "torch said nothing of use"}
    except (ValueError, IndexError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return {"error": (said[-1] if said else f"exit code {done.returncode}")[:300]}


def with_capabilities(
    cards: Sequence[Mapping[str, Any]], torch: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The cards with their compute capability, by torch's word, else by NVML's."""
    told = list((torch or {}).get("capabilities") or [])
    if len(told) != len(cards):
        told = _nvml_capabilities(len(cards))
    return [{**card, "capability": one} for card, one in zip(cards, told, strict=True)]


def _nvml_capabilities(count: int) -> list[list[int] | None]:
    if not count:
        return []
    try:
        nvml = load_nvml()
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        return [list(nvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in handles]
    except NvmlAbsentError:
        return [None] * count
    except Exception:  # noqa: BLE001  NVML's errors are classes made at run time: not known
        return [None] * count


def reach(host: str, port: int = HTTPS_PORT) -> dict[str, Any]:
    """Whether a host answers with TLS, how soon, or why not; `host:port` names another port."""
    name, _, given = host.partition(":")
    began = time.monotonic()
    try:
        address = (name, int(given or port))
        with socket.create_connection(address, HOST_TIMEOUT_S) as sock:
            if address[1] == HTTPS_PORT:
                tls = ssl.create_default_context()
                with tls.wrap_socket(sock, server_hostname=name):
                    pass
    except (OSError, ValueError) as error:
        return {"ok": False, "ms": None, "error": f"{type(error).__name__}: {error}"[:200]}
    return {"ok": True, "ms": round((time.monotonic() - began) * 1000), "error": ""}
