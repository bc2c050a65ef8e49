"""One job on a platform that misbehaves, as a process of its own; prints what came of it.

`python -m tests.e2e.fault_case QUANTUM_S FAULTS_JSON [disk-full]`
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import requests

from costguard.cli.client import ask
from costguard.core.money import parse_yuan
from costguard.demo.stage import PLATFORM_TOML, Stage
from costguard.localcloud import launch
from costguard.store.database import read_only_session
from costguard.store.ledger import broken_links
from tests.bench.toy import FINAL, row_of, submit, wait_for
from tests.store.invariants import check_books


def main() -> int:
    """Run the case and print its outcome as JSON."""
    quantum_s, faults = sys.argv[1], json.loads(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="cg-e2e-") as folder:
        home = Path(folder)
        home.chmod(0o700)
        os.environ["COSTGUARD_HOME"] = str(home)
        (home / "config.toml").write_text(PLATFORM_TOML, encoding="utf-8")
        read_end, write_end = os.pipe()
        cloud = launch.start(home / "localcloud", "--quantum-s", quantum_s, parent_fd=read_end)
        on = Stage(home, cloud, read_end)
        try:
            print(json.dumps(play(on, faults, disk_full=sys.argv[3:] == ["disk-full"])))
        finally:
            on.end()
            os.close(write_end)
    return 0


def fill_disk(on: Stage, job: str) -> str:
    """Let the daemon write nothing more once training runs; the platform's word on the instance.

    A limit on file sizes makes every write fail as a full disk does. Lifted at the end.
    """
    assert on.daemon is not None
    wait_for(job, "training")
    hard = resource.prlimit(on.daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))[1]
    deadline = time.monotonic() + 60
    while (power := str(on.truth()["instances"][0]["status"])) != "stopped":
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    stored = str(row_of(job)["state"])
    resource.prlimit(on.daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    return f"{power} while the database says {stored}"


def play(on: Stage, faults: dict[str, object], *, disk_full: bool = False) -> dict[str, object]:
    """Submit a toy job under these faults and see it to its end."""
    requests.put(
        on.cloud.url + "/admin/faults",
        json=faults,
        headers={"Authorization": f"Bearer {on.cloud.admin_token}"},
        timeout=5,
    ).raise_for_status()
    on.start_daemon()
    job = submit(on, "case", budget_yuan=20, steps=30 if disk_full else 3, pause_s=0.1)
    while_full = fill_disk(on, job) if disk_full else ""
    row = wait_for(job, *FINAL)
    truth = on.truth()
    lines = [line for one in truth["instances"] for line in on.bill_lines(one["id"])]
    events = ask("events", {"job": job})["events"]
    with read_only_session(on.home / "costguard.db") as session:
        check_books(session)
        broken = len(broken_links(session))
    return {
        "state": row["state"],
        "reason": row["pause_reason"],
        "bill": sum(parse_yuan(line["amount_yuan"]) for line in lines),
        "ledger": parse_yuan(ask("report", {})["totals"]["estimated_yuan"]),
        "lines": len(lines),
        "instances": len(truth["instances"]),
        "charging": sum(one["charging"] for one in truth["instances"]),
        "processes": sum(len(one["processes"]) for one in truth["instances"]),
        "kinds": [event["kind"] for event in events],
        "broken": broken,
        "while_full": while_full,
    }


if __name__ == "__main__":
    sys.exit(main())
