from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import costguard
from costguard.cli.app import run_app
from costguard.cli.main import main
from costguard.tomlfile import loads

if TYPE_CHECKING:
    from types import SimpleNamespace

ROOT = Path(costguard.__file__).parent.parent
LOG_PORTIONS = {
    0: {"lines": ["step 1"], "last": 3},
    3: {"lines": ["步 2"], "last": 7},
    7: {"lines": [], "last": 7},
}
READING = [
    ["status"],
    ["report"],
    ["explain", "kefu"],
    ["logs", "kefu"],
    ["budget", "show"],
    ["daemon", "status"],
]


@pytest.fixture
def answering(daemon: Any, docs: SimpleNamespace) -> Any:
    """A daemon with one finished job."""
    daemon.answers |= {
        "status": docs.status(docs.ended()),
        "report": docs.report(),
        "explain": docs.explain(),
        "logs": lambda args: LOG_PORTIONS[args["after"]],
        "budget_show": {"schema": "costguard.budget/1", "budgets": []},
        "events": {"events": [], "last": 0},
        "pause": {"jobs": ["kefu"]},
        "release": {"jobs": ["kefu"]},
        "budget_set": {"job": "kefu"},
    }
    return daemon


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "costguard", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_json_is_one_document_and_nothing_else(
    answering: Any, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Standard output parses as a whole, names its schema, and nothing is said beside it."""
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"].startswith("costguard.")
    assert err == ""


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_every_reading_command_shows_something(
    answering: Any, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """The same without --json is text for a person."""
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert not out.startswith("{")
    assert err == ""


def test_the_short_way_of_status_is_the_same_as_typers(
    answering: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever way it takes, `status` asks for and prints the same."""
    for words in (["status"], ["status", "kefu"], ["status", "--json"], ["status", "--json", "x"]):
        assert main(words) == run_app(words) == 0
        out = capsys.readouterr().out
        assert out[: len(out) // 2] == out[len(out) // 2 :]
    asked = answering.asked("status")
    assert asked[::2] == asked[1::2]


def test_status_loads_nothing_heavy(answering: Any) -> None:
    """No Typer, Rich, pydantic, SQLAlchemy or OpenSSL for the command that is called most."""
    heavy = ["typer", "rich", "pydantic", "sqlalchemy", "requests", "paramiko", "_hashlib"]
    code = (
        "import sys; from costguard.cli.main import main; main(['status']);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words", [["status", "--lang", "zh"], ["--lang=zh", "status"], ["status", "kefu", "--lang=zh"]]
)
def test_the_language_may_stand_anywhere(
    answering: Any, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """--lang before or after the command is the same."""
    assert main(words) == 0
    assert "已完成" in capsys.readouterr().out


def test_a_refusal_of_the_daemon_is_said_in_the_language_selected(
    daemon: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a person; a script gets it as it was."""
    error = {
        "code": "unknown_job",
        "what": "there is no job 'kefo'",
        "where": "/home",
        "hint": "jobs here: kefu",
    }
    daemon.answers["status"] = {"error": error}
    assert main(["--lang", "zh", "status", "kefo"]) == 1
    told = capsys.readouterr().err
    assert "没有任务 'kefo'" in told
    assert "这里的任务" in told
    assert main(["--lang", "zh", "status", "kefo", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["what"] == "there is no job 'kefo'"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Today's commands, and none that does not exist yet."""
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.split("Commands:")[1]
    assert [line.split()[0] for line in listed.strip().splitlines()] == [
        "demo", "run", "submit", "status", "watch", "report", "explain", "logs", "pause", "resume",
        "pull", "release", "simulate", "backup", "restore", "confirm-stopped",
        "init", "doctor", "offers", "estimate", "images", "shell", "chat", "export",
        "daemon", "budget", "data", "ledger", "notify",
    ]  # fmt: skip
    assert main(["status", "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """One version, in the code and in the project file."""
    project = loads((ROOT / "pyproject.toml").read_text())["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"costguard {project['version']}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["run"],
        ["status", "a", "b"],
        ["run", "x.toml", "--budget"],
        ["pause"],
        ["pause", "kefu", "--all"],
        ["budget", "set", "5"],
        ["budget", "set", "5", "--job", "a", "--month", "2026-11"],
        ["budget", "set", "abc", "--job", "a"],
        ["report", "--json", "--csv"],
        ["release", "kefu"],
        ["release", "kefu", "--yes-name", "kefu2"],
        ["status", "--lang", "xx"],
        ["data", "check", "no-such-file"],
    ],
    ids=" ".join,
)
def test_usage_mistakes_exit_with_2_and_one_message(
    answering: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    """What is wrong, where, what to do; nothing was asked of the daemon."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("costguard: ") or "--json" in words
    assert "Traceback" not in err
    if "--json" in words:
        assert json.loads(out)["error"]["code"] == "usage"
    assert not [request for request in answering.requests if request["do"] != "ping"]


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A bare `costguard` is a usage mistake that explains itself."""
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_an_error_with_json_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read the error where they read the answer."""
    assert main(["explain", "kefu", "--json"]) != 0
    out, err = capsys.readouterr()
    assert set(json.loads(out)["error"]) == {"code", "what", "where", "hint"}
    assert err == ""


def test_a_bug_is_one_line_and_exit_1(answering: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """No page of traceback for a person; a variable shows it to whoever looks for the bug."""
    answering.answers["status"] = {"jobs": "nonsense"}
    assert main(["status"]) == 1
    err = capsys.readouterr().err
    assert "internal error: KeyError" in err
    assert "Traceback" not in err


def test_pausing_says_what_is_proven_and_what_not(
    answering: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked is not stopped, and the words keep that apart."""
    assert main(["pause", "kefu"]) == 0
    assert main(["pause", "--all"]) == 0
    assert answering.asked("pause") == [{"job": "kefu"}, {"all": True}]
    assert "asked to pause" in capsys.readouterr().err


def test_release_asks_for_the_name(
    answering: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the name typed out releases; --yes-name types it for scripts."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert main(["release", "kefu"]) == 2
    assert answering.asked("release") == []
    monkeypatch.setattr(sys, "stdin", Terminal("kefu\n"))
    assert main(["release", "kefu"]) == 0
    assert main(["release", "kefu", "--yes-name", "kefu"]) == 0
    assert answering.asked("release") == [{"job": "kefu"}] * 2
    assert "deletes the disk" in capsys.readouterr().err


def test_a_cap_is_sent_as_exact_text(answering: Any) -> None:
    """Yuan cross the wire as a decimal text, never as a float."""
    assert main(["budget", "set", "0.35", "--job", "kefu"]) == 0
    assert main(["budget", "set", "500", "--month", "2026-11"]) == 0
    assert answering.asked("budget_set") == [
        {"scope": "job", "name": "kefu", "yuan": "0.35"},
        {"scope": "month", "name": "2026-11", "yuan": "500.00"},
    ]


def test_logs_come_in_portions_and_end_with_the_job(
    answering: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """All portions are fetched; -f ends when the job has and nothing is left, as JSON Lines too."""
    assert main(["logs", "kefu"]) == 0
    assert capsys.readouterr().out == "step 1\n步 2\n"
    assert main(["logs", "-f", "kefu", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"job": "kefu", "line": "step 1"}, {"job": "kefu", "line": "步 2"}]


def test_watch_ends_when_nothing_moves(answering: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Piped, it is one line a change, and there is none to come."""
    assert main(["watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2025-03-01 12:00:00  kefu  finished"
    assert len(lines) == 2


def test_the_csv_is_for_a_file(answering: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but the table comes out."""
    assert main(["report", "--csv", "--by", "job"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert answering.asked("report") == [{"by": "job"}]


def test_data_mask_leaves_the_original_and_hides_who_it_is_about(tmp_path: Path) -> None:
    """Beside it, or where it is told; a file that is there is not written over."""
    phone = "139" + "1234" + "5678"
    file = tmp_path / "train.jsonl"
    row = {"instruction": f"我的电话是{phone}", "input": "", "output": "好的 已记录"}
    file.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert command("data", "mask", str(file)).returncode == 0
    masked = (tmp_path / "train.masked.jsonl").read_text(encoding="utf-8")
    assert phone not in masked
    assert "我的电话是" in masked
    assert phone in file.read_text(encoding="utf-8")
    assert command("data", "mask", str(file)).returncode != 0
    assert command("data", "mask", str(file), "--out", str(tmp_path / "b.jsonl")).returncode == 0


def test_data_check_is_the_trainers(tmp_path: Path) -> None:
    """Its findings and its exit code are passed on."""
    good = tmp_path / "good.jsonl"
    good.write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    bad = tmp_path / "bad.jsonl"
    bad.write_text("nope\n")
    done = command("data", "check", str(good), "--json")
    assert (done.returncode, json.loads(done.stdout)["samples"]) == (0, 1)
    done = command("data", "check", str(bad))
    assert done.returncode == 65
    assert b"line 1: not JSON" in done.stdout + done.stderr


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "latin-1", "utf-8"])
def test_no_encoding_crashes_it(answering: Any, encoding: str) -> None:
    """A terminal without ¥ or Chinese gets what it can show, and JSON stays whole."""
    commands = [
        ["report"],
        ["status", "--json"],
        ["status"],
        ["explain", "kefu"],
        ["report", "--csv"],
    ]
    code = (
        "from costguard.cli.main import main\n"
        f"for words in {commands}: assert main([*words, '--lang', 'zh']) == 0; print(chr(30))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding).split(chr(30))
    assert {"gbk": "3.21元", "ascii": "CNY 3.21"}.get(encoding, "¥3.21") in shown[0]
    assert json.loads(shown[1])["jobs"][0]["job"] == "kefu"


def test_a_closed_pipe_is_no_error(answering: Any, docs: SimpleNamespace) -> None:
    """`costguard report | head` ends quietly."""
    report = docs.report()
    answering.answers["report"] = report | {"rows": report["rows"] * 2_000}
    process = subprocess.Popen(
        [sys.executable, "-m", "costguard", "report"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_ctrl_c_while_reading_is_130(answering: Any, docs: SimpleNamespace) -> None:
    """No traceback for someone who has seen enough."""
    answering.answers["status"] = docs.status(docs.job())
    process = subprocess.Popen(
        [sys.executable, "-m", "costguard", "watch"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, b"")
