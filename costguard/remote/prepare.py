"""Making an instance ready: a Python, the agent, the order, the uploads, and the start."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costguard.remote.bundle import build_agent
from costguard.remote.install import install
from costguard.remote.ssh import RefusedError, RemoteFailedError, run
from costguard.remote.upload import (
    Upload,
    link_from,
    list_files,
    make_directories,
    remote_hashes,
    send_bytes,
    send_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import paramiko

AGENT_NAME = "agent.pyz"
SPEC_NAME = "spec.json"
# The agent carries what it needs: no site packages, no PYTHON variables of the image, no locale.
ISOLATED = ("-I", "-S", "-X", "utf8")
PROBE_TIMEOUT_S = 180.0
CONTACT_TIMEOUT_S = 300.0
START_TIMEOUT_S = 120.0
DISK_MARGIN_BYTES = 64 * 1024 * 1024
MIB = 1024 * 1024
# Asked for its own path, so that what is found is a Python and not a wrapper that starts one. Each
# folder is looked into, so that versions which did not exist when this was written are found too.
FIND_PYTHON = """
for python in python3 python
do
    "$python" -c 'import sys
if sys.version_info < (3, 10): sys.exit(1)
print(*sys.version_info[:2], sys.executable)' 2>/dev/null
done
IFS=:
for folder in $PATH /opt/conda/bin /opt/miniconda3/bin \
    "$HOME/miniconda3/bin" "$HOME/anaconda3/bin"
do for python in "$folder"/python3 "$folder"/python3.[0-9] "$folder"/python3.[0-9][0-9]
do
    [ -x "$python" ] && "$python" -c 'import sys
if sys.version_info < (3, 10): sys.exit(1)
print(*sys.version_info[:2], sys.executable)' 2>/dev/null
done done
exit 0
"""


@dataclass(frozen=True)
class Job:
    """What is to stand on the instance: `directory` is absolute, or relative to the log-in."""

    directory: str
    uploads: tuple[Upload, ...]
    spec: Mapping[str, Any]

    @property
    def shell_directory(self) -> str:
        """The directory as an argument that cannot be taken for an option."""
        return self.directory if self.directory.startswith("/") else f"./{self.directory}"


def prepare(
    client: paramiko.SSHClient, job: Job, emit: Callable[[dict[str, Any]], None]
) -> tuple[str, ...]:
    """Brings the instance to where the agent can be started; returns the agent's command line.

    1. Find a Python that is new enough.
    2. Upload the agent and the order, unless they are there.
    3. Look at the machine (`probe` message): modules, disk. What modules are missing is installed
       where the order allows it (`install` messages). With `contact` in the order, the machine is
       judged by what that asks for (`contact` message).
    4. Upload what is missing (`upload` messages).

    What is done already is skipped, so it can be repeated after a lost connection. Raises
    RefusedError (`no_python`, `unfit`, `missing_modules`, `disk_full`, `upload_impossible`, those
    of `install`), RemoteFailedError, UnreachableError.
    """
    directory = job.shell_directory
    agent = agent_at(client, directory)
    files = list_files(job.uploads)
    make_directories(client, [directory])
    bundle = build_agent()
    names = [AGENT_NAME, SPEC_NAME, *(file.remote for file in files)]
    try:
        there = remote_hashes(client, agent, directory, names)
    except RemoteFailedError:  # no agent there yet, or a broken one
        send_bytes(client, bundle, f"{directory}/{AGENT_NAME}")
        there = remote_hashes(client, agent, directory, names)
    order = json.dumps(dict(job.spec), sort_keys=True).encode()
    for name, content in ((AGENT_NAME, bundle), (SPEC_NAME, order)):
        if there[name] != hashlib.sha256(content).hexdigest():
            send_bytes(client, content, f"{directory}/{name}")
    missing = [file for file in files if there[file.remote] != file.sha256]
    missing = link_from(client, agent, directory, missing, _earlier_stages(directory))
    found = _look(client, agent, job, emit)
    if found["needs"]["missing"] and _may_install(job):
        install(client, agent, directory, emit)
        found = _look(client, agent, job, emit)
    _refuse_what_cannot_work(found, sum(file.size for file in missing))
    if missing:
        send_files(
            client, directory, missing, lambda done, total: emit(_uploaded(done, total)), agent
        )
    return agent


def _earlier_stages(directory: str) -> list[str]:
    """The folders of the job's stages before this one, from its own."""
    found = re.search(r"/stage-(\d{1,3})$", directory)
    return [f"../stage-{number}" for number in range(int(found[1]) if found else 0)]


def agent_at(client: paramiko.SSHClient, directory: str) -> tuple[str, ...]:
    """The command line of the agent in `directory`, whether it is there yet or not."""
    return (find_python(client), *ISOLATED, f"{directory}/{AGENT_NAME}")


def find_python(client: paramiko.SSHClient) -> str:
    """The newest Python of 3.10 or newer there; raises RefusedError (`no_python`)."""
    done = run(client, ["sh", "-c", FIND_PYTHON])
    found = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        fields = line.split(" ", 2)
        if len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit():
            found.append((int(fields[0]), int(fields[1]), fields[2]))
    if not found:
        raise RefusedError("the instance has no Python of 3.10 or newer", "no_python")
    return max(found, key=lambda one: one[:2])[2]  # of equals the first: PATH knows why


def first_contact(
    client: paramiko.SSHClient,
    agent: Sequence[str],
    directory: str,
    needs: Mapping[str, Any],
    utc_ms: int,
) -> dict[str, Any]:
    """The `contact` message: what the instance has, judged by what the job needs."""
    asked = json.dumps({"needs": dict(needs), "utc_ms": utc_ms}).encode()
    argv = [*agent, "contact", f"--dir={directory}"]
    return _answer(run(client, argv, asked, CONTACT_TIMEOUT_S).stdout, "contact")


def _may_install(job: Job) -> bool:
    wishes = job.spec.get("install")
    return isinstance(wishes, dict) and wishes.get("allowed") is True


def _look(
    client: paramiko.SSHClient,
    agent: Sequence[str],
    job: Job,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """What the machine offers, judged where the order says by what (`unfit` names what failed).

    Packages are not held against the machine here where the order has a word on installing them.
    """
    needs = job.spec.get("contact")
    if not isinstance(needs, dict):
        seen = probe(client, agent, job.shell_directory)
        emit({"t": "probe", **seen})
        return seen
    now_ms = time.time_ns() // 1_000_000
    told = first_contact(client, agent, job.shell_directory, needs, now_ms)
    found: dict[str, Any] = told.pop("probe")
    emit({"t": "probe", **found})
    emit(told)
    excused = set(needs.get("versions") or {}) if "install" in job.spec else set()
    failed = [
        _said(row)
        for row in told.get("rows") or []
        if row["verdict"] == "fail" and row.get("check") not in excused
    ]
    if failed:
        raise RefusedError(f"the instance is not fit for the job: {'; '.join(failed)}", "unfit")
    return found


def _said(row: Mapping[str, Any]) -> str:
    said = f"{row.get('check')}: {row.get('seen')}"
    return f"{said} (the job wants: {row['wanted']})" if row.get("wanted") else said


def probe(client: paramiko.SSHClient, agent: Sequence[str], directory: str) -> dict[str, Any]:
    """What the machine offers, as `agent.pyz probe` reports it."""
    argv = [*agent, "probe", f"--dir={directory}"]
    return _answer(run(client, argv, timeout_s=PROBE_TIMEOUT_S).stdout, "probe")


def start_agent(client: paramiko.SSHClient, agent: Sequence[str], directory: str) -> dict[str, Any]:
    """Has the agent running in `directory`; its answer says whether it was `already`.

    Raises RefusedError with the agent's own code when it cannot carry out the order.
    """
    argv = [*agent, "start", f"--dir={directory}"]
    return _answer(run(client, argv, timeout_s=START_TIMEOUT_S).stdout, "start")


def _answer(stdout: bytes, what: str) -> dict[str, Any]:
    try:
        answer = json.loads(stdout)
    except ValueError as error:
        said = stdout[-300:].decode("utf-8", "replace")
        raise RemoteFailedError(f"agent.pyz {what} said no JSON: {said!r}") from error
    if not isinstance(answer, dict):
        raise RemoteFailedError(f"agent.pyz {what} said {answer!r}")
    refusal = answer.get("error")
    if isinstance(refusal, dict):
        raise RefusedError(str(refusal.get("what")), str(refusal.get("code")))
    return answer


def _refuse_what_cannot_work(found: Mapping[str, Any], upload_bytes: int) -> None:
    missing = found["needs"]["missing"]
    if missing:
        what = (
            f"no Python on the instance can import: {', '.join(missing)}; take an image that has "
            "it, or allow costguard to install it (install = true under [instance])"
        )
        raise RefusedError(what, "missing_modules")
    free = found["disk_free_mib"] * MIB
    if upload_bytes + DISK_MARGIN_BYTES > free:
        what = f"{upload_bytes // MIB} MiB to upload, {free // MIB} MiB free on the instance"
        raise RefusedError(what, "disk_full")


def _uploaded(done: int, total: int) -> dict[str, Any]:
    return {"t": "upload", "done_bytes": done, "total_bytes": total}
