from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.agent.harness import inside, is_guardian, lives, wait_until

if TYPE_CHECKING:
    from tests.agent.harness import Job


def test_training_waits_for_the_first_lease(job: Job) -> None:
    """Uploaded and started, but not trained before the money is reserved."""
    job.order()
    job.start()
    reader = job.attach()
    reader.wait_for("gpu")
    assert reader.of("heartbeat")[-1]["training"] == "waiting"
    assert not reader.of("started")
    reader.lease()
    reader.wait_for("started")
    reader.wait_for("exit", code=0)


def test_a_run_is_told_from_hello_to_exit(job: Job) -> None:
    """Every kind of message, numbered without a gap, and the result with the exit."""
    reader = job.begin({"phase": "load", "checkpoint_at": [2], "print": ["begun", "线 ok"]})
    ended = reader.wait_for("exit")
    journal = reader.journal()
    assert [record["seq"] for record in journal] == list(range(1, len(journal) + 1))
    kinds = [record["t"] for record in journal if record["t"] != "gpu"]
    assert kinds[:3] == ["hello", "lease", "started"]
    assert kinds[-1] == "exit"
    assert [record["phase"] for record in reader.of("phase")] == ["load"]
    assert [record["step"] for record in reader.of("progress")] == [1, 2, 3, 4, 5]
    checkpoints = {record["name"]: record["complete"] for record in reader.of("checkpoint")}
    assert checkpoints == {"checkpoint-2": True, "adapter": True}
    lines = [line for record in reader.of("log") for line in record["lines"]]
    assert lines == ["begun", "线 ok"]
    assert (ended["code"], ended["signal"]) == (0, None)
    assert ended["artifact"]["name"] == "adapter"
    assert ended["log_tail"] == ["begun", "线 ok"]
    assert not job.agent_log()


def test_hello_says_what_the_machine_is(job: Job) -> None:
    """Boot, Python, processors, and that there is no GPU, where there is none."""
    job.order()
    pid = job.start()["pid"]
    hello = job.attach().wait_for("hello")
    assert (hello["run_id"], hello["pid"]) == ("run-1", pid)
    assert hello["cpu_count"] == os.cpu_count()
    assert hello["nvml"]["state"] in {"absent", "ok"}
    assert hello["nvml"]["state"] == "ok" or hello["nvml"]["detail"]


def test_a_cut_connection_loses_and_repeats_nothing(job: Job) -> None:
    """Whoever attaches again after number N gets N + 1 and on."""
    reader = job.begin({"steps": 20, "gates": {"5": "go on"}})
    reader.wait_for("progress", step=5)
    reader.close()
    (job.directory / "go on").touch()
    seen = reader.journal()
    again = job.attach(after=seen[-1]["seq"])
    again.wait_for("exit")
    numbers = [record["seq"] for record in seen + again.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
    steps = [record["step"] for record in seen + again.journal() if record["t"] == "progress"]
    assert steps == list(range(1, 21))


def test_a_reader_from_the_start_gets_everything(job: Job) -> None:
    """The journal is the truth: it can be asked for again."""
    first = job.begin()
    first.wait_for("exit")
    second = job.attach()
    second.wait_for("exit")
    records = first.journal()
    wait_until(lambda: len(second.journal()) >= len(records), "the same records")
    assert second.journal()[: len(records)] == records


def test_the_newest_reader_wins(job: Job) -> None:
    """The one before is told so and let go; its messages no longer count."""
    job.order()
    job.start()
    first = job.attach()
    first.wait_for("heartbeat")
    second = job.attach()
    second.wait_for("heartbeat")
    with contextlib.suppress(OSError):  # it may be closed already
        first.send({"t": "stop", "id": "S1", "save": False})
    first.wait_for("replaced")
    wait_until(lambda: first.closed, "the end of the first")
    second.lease()
    second.wait_for("exit", code=0)
    assert not first.of("started")


def test_a_reader_that_hangs_holds_up_nothing(job: Job) -> None:
    """A client that never reads: the training runs, ends, and the next reader has it all."""
    job.order({"steps": 30, "step_s": 0.01, "print": ["x" * 1900], "repeat": 400})
    job.start()
    reader = job.attach()
    reader.lease()
    reader.wait_for("started")
    hung = socket.socket(socket.AF_UNIX)
    hung.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    with inside(job.directory):
        hung.connect("agent.sock")
    hung.sendall(b'{"t":"attach","after":0}\n')
    reader.wait_for("replaced")
    wait_until(lambda: '"t":"exit"' in (job.directory / "journal.jsonl").read_text(), "the exit")
    later = job.attach()
    later.wait_for("exit", code=0)
    assert [record["step"] for record in later.of("progress")] == list(range(1, 31))
    hung.close()


def test_nonsense_from_a_reader_changes_nothing(job: Job) -> None:
    """Bad JSON, NaN, wrong types and unknown messages: answered or ignored, never obeyed."""
    job.order()
    job.start()
    reader = job.attach()
    reader.wait_for("heartbeat")
    reader.send_raw(b"rubbish\n[1]\n\xff\xfe\n")
    reader.send_raw(b'{"t":"stop","id":"s","grace_s":NaN}\n')
    reader.send({"t": "stop", "id": 7})
    reader.send({"t": "ack", "seq": "x"})
    reader.send({"t": "what"})
    reader.send({"t": "lease", "id": ["L"], "heartbeat": {}, "valid_ms": []})
    reader.wait_for("lease", state="refused")
    assert len(reader.of("error")) == 4
    reader.lease()
    reader.wait_for("exit", code=0)
    assert not job.agent_log()


def test_a_line_without_end_costs_the_reader_its_place(job: Job) -> None:
    """Memory stays bounded; the next reader is served."""
    job.order()
    job.start()
    reader = job.attach()
    reader.wait_for("heartbeat")
    reader.send_raw(b"x" * 200_000)
    wait_until(lambda: reader.closed, "the cut")
    job.attach().wait_for("heartbeat")


def test_a_second_start_finds_the_first(job: Job) -> None:
    """It says so, ends with 0, and starts nothing."""
    job.order()
    first = job.start()
    second = job.start()
    assert first["already"] is False
    assert second["already"] is True
    assert second["pid"] == first["pid"]
    assert second["run_id"] == "run-1"


def test_what_the_agent_writes_is_its_owners(job: Job) -> None:
    """Journal, logs and socket are closed to others; the training keeps the usual umask."""
    reader = job.begin()
    reader.wait_for("exit")
    for name in ("journal.jsonl", "agent.log", "agent.sock", "agent.lock"):
        assert stat.S_IMODE((job.directory / name).stat().st_mode) & 0o077 == 0
    umask = os.umask(0)
    os.umask(umask)
    written = (job.directory / "output" / "trainer_log.jsonl").stat().st_mode
    assert stat.S_IMODE(written) == 0o666 & ~umask


def test_binary_rubbish_and_endless_lines_reach_nobody(job: Job) -> None:
    """The log stays printable and small; what was left out is counted."""
    reader = job.begin({"rubbish": True})
    reader.wait_for("exit", code=0)
    logs = reader.of("log")
    lines = [line for record in logs for line in record["lines"]]
    assert lines[-1] == "last"
    assert all(line.isprintable() or "\t" in line for line in lines)
    assert sum(len(line) for line in lines) < 20_000
    cut = any("cut" in line for line in lines)
    assert cut or sum(record["dropped_bytes"] for record in logs) > 1_000_000
    assert reader.of("exit")[0]["log_tail"][-1] == "last"


def test_a_nan_loss_is_told_as_such(job: Job) -> None:
    """Null in JSON, and named."""
    reader = job.begin({"nan_at": 3})
    record = reader.wait_for("progress", step=3)
    assert record["loss"] is None
    assert record["nonfinite"] == ["loss"]


def test_the_jobs_processor_time_counts_children_that_are_gone(job: Job) -> None:
    """What a short-lived child has used shows in its window, and then no more."""
    reader = job.begin({"burn_s": 0.4, "hold_s": 30})
    reader.wait_for("progress", step=5)
    wait_until(lambda: reader.of("gpu")[-1]["job"]["cpu_cores"] < 0.2, "a quiet window")
    windows = [record["job"] for record in reader.of("gpu")]
    used_s = sum(window["cpu_cores"] * 0.3 for window in windows)
    assert used_s > 0.35
    assert max(window["rss_mib"] for window in windows) > 3
    assert max(window["processes"] for window in windows) == 2


def test_an_agent_that_was_killed_goes_on_where_it_was(job: Job) -> None:
    """The training outlives it, is adopted, and nothing is told twice or not at all."""
    reader = job.begin({"steps": 20, "gates": {"5": "go on"}})
    pid = reader.wait_for("started")["pid"]
    reader.wait_for("progress", step=5)
    (agent,) = job.pids
    os.kill(agent, 9)
    wait_until(lambda: reader.closed, "the end of the agent")
    assert lives(pid)
    assert job.start()["already"] is False
    again = job.attach(after=reader.journal()[-1]["seq"])
    again.wait_for("heartbeat", training="running")
    (job.directory / "go on").touch()
    ended = again.wait_for("exit")
    assert again.wait_for("hello")["resumed"] is True
    assert ended["code"] is None
    assert "unseen" in ended["detail"]
    assert ended["artifact"]["name"] == "adapter"
    records = reader.journal() + again.journal()
    assert [one["seq"] for one in records] == list(range(1, len(records) + 1))
    steps = [one["step"] for one in records if one["t"] == "progress"]
    assert steps == list(range(1, 21))
    assert len([one for one in records if one["t"] == "started"]) == 1


def test_a_training_begins_at_most_once(job: Job) -> None:
    """An agent that died between the lease and the start leaves it unknown: no second begins."""
    job.order()
    records = [
        {"seq": 1, "t": "hello", "run_id": "run-1"},
        {"seq": 2, "t": "lease", "state": "granted", "id": "L0", "ends_boot_ms": 1},
    ]
    lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
    (job.directory / "journal.jsonl").write_text("".join(lines))
    job.start()
    reader = job.attach()
    reader.lease()
    ended = reader.wait_for("exit")
    assert ended["code"] is None
    assert "no agent was there" in ended["detail"]
    reader.wait_for("heartbeat", lease_id="L1")
    assert not reader.of("started")


def test_a_run_that_is_over_is_not_trained_again(job: Job) -> None:
    """An agent started anew on it serves its records, whatever lease comes."""
    reader = job.begin()
    reader.wait_for("exit")
    (agent,) = job.pids
    os.kill(agent, 9)
    wait_until(lambda: not lives(agent), "the end of the agent")
    job.start()
    again = job.attach()
    again.wait_for("exit", code=0)
    again.lease()
    again.wait_for("heartbeat", lease_id="L1")
    assert again.of("heartbeat")[-1]["training"] == "exited"
    assert len(again.of("started")) == 1


def test_the_next_run_takes_the_place_of_a_finished_one(job: Job) -> None:
    """In the same directory, with numbers that go on, and only its own records and result."""
    first = job.begin()
    last = first.wait_for("exit")["seq"]
    job.order({"steps": 2, "adapter": False}, run_id="run-2")
    assert job.start()["already"] is False
    second = job.attach()
    second.lease()
    ended = second.wait_for("exit", code=0)
    assert second.journal()[0]["t"] == "hello"
    assert second.journal()[0]["seq"] > last
    assert [record["step"] for record in second.of("progress")] == [1, 2]
    assert ended["artifact"] is None


def test_the_next_run_does_not_push_out_a_training(job: Job) -> None:
    """It is refused by name, and the training goes on."""
    reader = job.begin({"steps": 5, "hold_s": 30})
    pid = reader.wait_for("started")["pid"]
    job.order(run_id="run-2")
    answer = job.start()
    assert answer["error"]["code"] == "busy"
    assert "run-1" in answer["error"]["what"]
    assert lives(pid)


def test_an_order_that_cannot_be_started_ends_with_the_reason(job: Job) -> None:
    """A program that is not there: an exit without a code, and why."""
    job.order(argv=["/no/such/program"])
    job.start()
    reader = job.attach()
    reader.lease()
    ended = reader.wait_for("exit")
    assert ended["code"] is None
    assert "/no/such/program" in ended["detail"]


def test_the_bridge_carries_both_ways(job: Job) -> None:
    """`attach` on standard input and output is what runs at the far end of the SSH channel."""
    job.order({"steps": 3})
    job.start()
    bridge = subprocess.Popen(
        [sys.executable, str(job.agent_path), "attach", f"--dir={job.directory}", "--after=0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert bridge.stdin is not None
    assert bridge.stdout is not None
    heartbeat = json.loads(bridge.stdout.readline())
    lease = {"t": "lease", "id": "L", "heartbeat": heartbeat["n"], "valid_ms": 60_000}
    bridge.stdin.write(json.dumps(lease).encode() + b"\n")
    bridge.stdin.flush()
    for line in bridge.stdout:
        message = json.loads(line)
        if message["t"] == "started":
            job.pids.add(message["pid"])
        if message["t"] == "exit":
            break
    assert message["code"] == 0
    bridge.stdin.close()
    assert bridge.wait(10) == 0
    bridge.stdout.close()


def test_after_a_reboot_nothing_is_adopted(job: Job) -> None:
    """A process of the same number in another boot is another one; what ended is said."""
    reader = job.begin({"steps": 10_000})
    reader.wait_for("progress", step=2)
    (agent,) = job.pids
    job.pids.add(reader.wait_for("started")["pid"])
    os.kill(agent, 9)
    wait_until(lambda: not lives(agent), "the end of the agent")
    journal = job.directory / "journal.jsonl"
    hello = json.loads(journal.read_bytes().splitlines()[0])
    journal.write_bytes(journal.read_bytes().replace(hello["boot_id"].encode(), b"before"))
    job.start()
    again = job.attach()
    ended = again.wait_for("exit")
    assert "the instance was rebooted" in ended["detail"]
    assert ended["code"] is None
    again.lease()
    again.wait_for("heartbeat", lease_id="L1")
    assert len(again.of("started")) == 1


def test_a_journal_whose_disk_is_full_is_told_and_made_good(job: Job) -> None:
    """In a real agent, whose files may not grow: it goes on in memory, and says so."""
    reader = job.begin({"steps": 10_000})
    reader.wait_for("progress", step=2)
    (agent,) = job.pids
    size = (job.directory / "journal.jsonl").stat().st_size
    limits = resource.prlimit(agent, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    told = reader.wait_for("heartbeat", journal_ok=False)
    step = reader.of("progress")[-1]["step"]
    reader.wait_for("progress", step=step + 20)
    assert told["training"] == "running"
    resource.prlimit(agent, resource.RLIMIT_FSIZE, limits)
    wait_until(lambda: reader.of("heartbeat")[-1]["journal_ok"] is True, "the disk's return")
    reader.send({"t": "stop", "id": "S1", "save": True, "grace_s": 20})
    reader.wait_for("exit", code=75)
    lines = (job.directory / "journal.jsonl").read_bytes().splitlines()
    numbers = [json.loads(line)["seq"] for line in lines]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [one["seq"] for one in reader.journal()] == numbers[: len(reader.journal())]


def test_an_agent_that_is_killed_is_started_anew_by_its_guardian(job: Job) -> None:
    """Nobody else is there: the training is adopted, its lease is known, nothing is told twice."""
    job.order({"steps": 10_000}, restart_s=0.1)
    first = job.start()
    reader = job.attach()
    reader.lease(600_000)
    reader.wait_for("progress", step=3)
    os.kill(first["pid"], 9)
    wait_until(lambda: reader.closed, "the end of the agent")
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [job.start()]
        return bool(found[0].get("already"))

    wait_until(lambda: b'"resumed":true' in (job.directory / "journal.jsonl").read_bytes(), "it")
    wait_until(look, "the second agent")
    assert found[0]["pid"] != first["pid"]
    again = job.attach()
    told = again.wait_for("heartbeat", training="running")
    assert told["lease_id"] == "L1"
    job.guardians.add(again.of("hello")[-1]["guardian"])
    numbers = [one["seq"] for one in again.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(again.of("started")) == 1


def test_a_guardian_goes_with_an_agent_that_has_ended_by_itself(job: Job) -> None:
    """Terminated, retired or through: nothing is started anew."""
    job.order({"steps": 10_000}, restart_s=0.0)
    started = job.start()
    reader = job.attach()
    reader.lease()
    reader.wait_for("progress", step=3)
    os.kill(started["pid"], signal.SIGTERM)
    reader.wait_for("exit", code=75)
    wait_until(lambda: not is_guardian(started["guardian"]), "the guardian's end")
    assert not lives(started["pid"])
    assert (job.directory / "journal.jsonl").read_bytes().count(b'"t":"hello"') == 1
