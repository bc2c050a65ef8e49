"""shell, chat and export: a daemon at the wire, and a real SSH server for the instance."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from costguard.cli.main import main
from costguard.cli.visiting import tell_price
from costguard.remote import download
from costguard.remote.bundle import build_agent
from tests.remote.ssh_server import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import SimpleNamespace

QUOTE = {
    "job": "kefu",
    "price_yuan_per_hour": "15.00",
    "quantum_s": 1,
    "visit_s": 1_800,
    "reach_s": 1_800,
    "visit_most_yuan": "7.51",
    "enforcers": ["daemon", "platform timer (read back)"],
    "lines": [],
}
# Stands for the trainer on the instance: answers, or writes an export with its manifest last.
TRAINER = """
import hashlib, json, pathlib, sys
words = dict(word[2:].split("=", 1) for word in sys.argv[2:])
print(sys.argv[1], json.dumps(words, sort_keys=True))
if sys.argv[1] == "chat":
    print("asked:", pathlib.Path(words["interview"]).read_text() if "interview" in words
          else sys.stdin.read())
    sys.exit(3)
target = pathlib.Path(words["export_dir"])
target.mkdir()
(target / "model.safetensors").write_bytes(b"weights")
digest = hashlib.sha256(b"weights").hexdigest()
files = [{"name": "model.safetensors", "size": 7, "sha256": digest}]
(target / "manifest.json").write_text(json.dumps({"files": files}))
"""


class Instance:
    """The instance of an ended job, and the daemon that holds it for a visit."""

    def __init__(self, daemon: Any, docs: SimpleNamespace, home: Path) -> None:
        self.machine = Machine(home / "instance")
        self.job_dir = self.machine.home / "stage-0"
        (self.job_dir / "trainer").mkdir(parents=True)
        (self.job_dir / "trainer" / "__init__.py").touch()
        (self.job_dir / "trainer" / "__main__.py").write_text(TRAINER)
        visit_dir = self.machine.home / "visit"
        visit_dir.mkdir()
        (visit_dir / "agent.pyz").write_bytes(build_agent())
        target = self.machine.target()
        self.ready: dict[str, Any] = {
            "visit": "ready",
            "job": "kefu",
            "state": "preparing",
            "left_s": 1_700,
            "paid_left_s": 0,
            "job_dir": str(self.job_dir),
            "visit_dir": str(visit_dir),
            "ssh": {
                "host": target.host,
                "port": target.port,
                "user": target.user,
                "host_keys": list(target.host_keys),
                "key_file": str(target.client_key_path),
                "password": None,
            },
        }
        self.daemon = daemon
        self.result: dict[str, Any] = {
            "job": "kefu",
            "argv": ["{python}", "-m", "trainer", "train", "--model_name_or_path", "model"],
            "output_dir": "output",
            "uploads": [],
            "pull_to": str(home / "artifacts"),
            "pull_bytes_per_s": None,
            "python": sys.executable,
            "adapter": {"name": "adapter", "digest": "c0ffee", "path": None},
        }
        daemon.answers |= {
            "visit": lambda args: QUOTE if args.get("quote") else {**QUOTE, "visit": 7},
            "visit_touch": lambda _: self.ready,
            "visit_end": {"job": "kefu"},
            "result": lambda _: self.result,
            "status": docs.status(docs.ended()),
            "events": {"events": [], "last": 0},
        }

    def asked_for(self) -> list[dict[str, Any]]:
        """The visits that were really asked for."""
        return [args for args in self.daemon.asked("visit") if not args.get("quote")]

    def left(self) -> bool:
        """Whether the daemon was told that the visitor has left."""
        return bool(self.daemon.asked("visit_end") == [{"job": "kefu", "visit": 7}])


@pytest.fixture
def instance(daemon: Any, docs: SimpleNamespace, tmp_path: Path) -> Iterator[Instance]:
    """One that is on, and reached."""
    made = Instance(daemon, docs, tmp_path)
    yield made
    made.machine.close()


@pytest.fixture
def type_in() -> Iterator[Any]:
    """What comes in on standard input, on the descriptor itself."""
    before = os.dup(0)

    def give(text: str) -> None:
        source, sink = os.pipe()
        os.write(sink, text.encode())
        os.close(sink)
        os.dup2(source, 0)
        os.close(source)

    yield give
    os.dup2(before, 0)
    os.close(before)


def test_a_shell_is_priced_first_and_off_afterwards(
    instance: Instance, type_in: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The price and who stops it; a shell in the job's folder; left, and seen to be off."""
    type_in("pwd; exit 6")
    assert main(["shell", "kefu", "--yes", "--for", "20m"]) == 6
    told = capfd.readouterr()
    assert told.out == f"{instance.job_dir}\n"
    assert "cost at most ¥7.51 (¥15.00 an" in told.err
    assert "seen stopped" in told.err
    assert instance.asked_for() == [{"job": "kefu", "purpose": "shell", "length_ms": 1_200_000}]
    assert instance.left()


def test_its_ssh_command_has_the_pinned_key_and_ours(
    instance: Instance,
    home: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Held on without a shell, until it is over."""
    monkeypatch.setattr("costguard.cli.visiting.BEAT_S", 0.05)
    touches = iter([instance.ready] * 2)
    over = {"visit": "over", "why": "its time is over", "paid_left_s": 0}
    instance.daemon.answers["visit_touch"] = lambda _: next(touches, over)
    assert main(["shell", "kefu", "--hold", "--yes"]) == 0
    told = capfd.readouterr().err
    assert f"-o UserKnownHostsFile={home}/known_hosts-kefu" in told
    assert "StrictHostKeyChecking=yes" in told
    assert "the visit is over: its time is over" in told
    port, key = instance.ready["ssh"]["port"], instance.ready["ssh"]["host_keys"][0]
    assert (home / "known_hosts-kefu").read_text() == f"[127.0.0.1]:{port} {key}\n"


@pytest.mark.parametrize("answer", [None, "n\n", "\n"])
def test_nothing_is_switched_on_that_was_not_confirmed(
    answer: str | None, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal to ask on, or with anything but a yes."""
    stdin = io.StringIO(answer or "")
    monkeypatch.setattr(stdin, "isatty", lambda: answer is not None, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["shell", "kefu"]) == 7
    assert instance.asked_for() == []


def test_a_yes_switches_it_on(
    instance: Instance, type_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Chinese."""
    stdin = io.StringIO("是\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    type_in("exit")
    assert main(["shell", "kefu"]) == 0
    assert instance.left()


def test_one_that_never_came_is_told_and_given_up(
    instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the daemon's word for it."""
    instance.daemon.answers["visit_touch"] = {"visit": "over", "why": "another host key"}
    assert main(["shell", "kefu", "--yes"]) == 7
    assert "another host key" in capsys.readouterr().err
    assert instance.left()


def test_a_stop_that_is_not_seen_is_exit_9(
    instance: Instance, docs: SimpleNamespace, type_in: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Louder than whatever the shell returned."""
    pausing = docs.ended() | {"state": "pausing"}
    instance.daemon.answers["status"] = docs.status(pausing)
    events = [{"id": 1, "kind": "stop_not_confirmed", "text": "", "data": {}, "at": ""}]
    instance.daemon.answers["events"] = {"events": events, "last": 1}
    type_in("exit 6")
    assert main(["shell", "kefu", "--yes"]) == 9
    assert "NOT confirmed" in capfd.readouterr().err


def test_chat_asks_the_trainer_there(
    instance: Instance, type_in: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its questions go in line by line; its exit code is ours."""
    type_in("你好\n")
    assert main(["chat", "kefu", "--yes"]) == 3
    told = capfd.readouterr().out
    assert told.startswith('chat {"adapter_name_or_path": "output", "model_name_or_path"')
    assert "asked: 你好" in told


@pytest.mark.parametrize(("language", "said"), [("zh", "zh_CN"), ("en", "en")])
def test_the_trainer_there_speaks_the_persons_language(
    language: str, said: str, instance: Instance, type_in: Any
) -> None:
    """Whatever the image's own locale is."""
    type_in("x\n")
    assert main(["--lang", language, "chat", "kefu", "--yes"]) == 3
    (command,) = [line for line in instance.machine.commands if "-m trainer" in line]
    assert f"exec env LANGUAGE={said} " in command


def test_an_interview_travels_with_it(
    instance: Instance, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file is read before anything is switched on."""
    assert main(["chat", "kefu", "--yes", "--interview", str(tmp_path / "none.json")]) == 2
    assert instance.daemon.asked("visit") == []
    (tmp_path / "q.json").write_text('["营业吗"]')
    assert main(["chat", "kefu", "--yes", "--interview", str(tmp_path / "q.json")]) == 3
    assert 'asked: ["营业吗"]' in capfd.readouterr().out


def test_an_export_comes_home_verified(
    instance: Instance, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every file of its manifest, and the manifest; that `--here` is free is said first."""
    assert main(["export", "kefu", "--bits", "4", "--yes"]) == 0
    home = tmp_path / "artifacts" / "kefu" / "export-nf4"
    assert sorted(path.name for path in home.iterdir()) == ["manifest.json", "model.safetensors"]
    told = capfd.readouterr()
    assert told.err.index("--here") < told.err.index("cost at most")
    assert '"export_dir": "export-nf4-c0ffee"' in told.out
    assert '"export_quantization_bit": "4"' in told.out
    assert main(["export", "kefu", "--bits", "4", "--yes"]) == 7
    assert "there already" in capfd.readouterr().err


@pytest.mark.parametrize("limit", [None, 2_500_000])
def test_an_export_is_held_to_the_jobs_pace(
    instance: Instance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    limit: int | None,
) -> None:
    """As everything that comes home; and how long that takes at least is said: rent runs."""
    instance.result["pull_bytes_per_s"] = limit
    paces: list[float | None] = []

    class Noted(download.Pace):
        def __init__(self, bytes_per_s: float | None, now_s: float) -> None:
            paces.append(bytes_per_s)
            super().__init__(bytes_per_s, now_s)

    monkeypatch.setattr(download, "Pace", Noted)
    assert main(["export", "kefu", "--yes", "--to", str(tmp_path / "out")]) == 0
    assert paces == [limit]
    said = "held to 20 Mbit/s ([artifacts] max_mbit_per_s): 1 s at least"
    assert (said in capfd.readouterr().err) is (limit is not None)


def test_what_was_exported_before_is_only_fetched(instance: Instance, tmp_path: Path) -> None:
    """A download that broke off does not cost the export again."""
    there = instance.job_dir / "export-bf16-c0ffee"
    there.mkdir()
    (there / "model").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    files = [{"name": "model", "size": 1, "sha256": digest}]
    (there / "manifest.json").write_text(json.dumps({"files": files}))
    assert main(["export", "kefu", "--yes", "--to", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model").read_bytes() == b"x"
    assert not [line for line in instance.machine.commands if "-m trainer" in line]


@pytest.mark.parametrize(
    ("files", "trainer"),
    [
        ([{"name": "../evil", "size": 1, "sha256": "0" * 64}], TRAINER),
        ([{"name": "model", "size": 1, "sha256": "0" * 64}], TRAINER),
        (None, "import sys; sys.exit(76)"),
        (None, "pass"),
    ],
    ids=["escapes", "damaged", "refused by the trainer", "no manifest"],
)
def test_an_export_that_is_not_whole_is_not_kept(
    files: list[dict[str, Any]] | None, trainer: str, instance: Instance, tmp_path: Path
) -> None:
    """And the instance goes off all the same."""
    (instance.job_dir / "trainer" / "__main__.py").write_text(trainer)
    if files is not None:
        there = instance.job_dir / "export-bf16-c0ffee"
        there.mkdir()
        (there / "model").write_bytes(b"x")
        (there / "manifest.json").write_text(json.dumps({"files": files}))
    assert main(["export", "kefu", "--yes", "--to", str(tmp_path / "out")]) in (1, 7, 76)
    assert not (tmp_path / "out").exists()
    assert instance.left()


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (["export", "kefu", "--bits", "8"], {}, "8 bits"),
        (["export", "kefu"], {"adapter": None}, "no finished adapter"),
        (["export", "kefu", "--here"], {}, "not at home"),
        (["chat", "kefu", "--here"], {}, "not at home"),
        (["chat", "kefu"], {"argv": ["x"]}, "not trained by"),
        (["chat", "kefu", "--for", "soon"], {}, "no duration"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    words: list[str],
    changes: dict[str, Any],
    said: str,
    instance: Instance,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one sentence with what to do."""
    instance.result |= changes
    assert main(words) in (2, 7)
    assert said in capsys.readouterr().err
    assert instance.daemon.asked("visit") == []


def test_here_it_needs_torch_and_no_instance(
    instance: Instance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Said before it begins: nothing is charged."""
    instance.result["adapter"] = {"name": "adapter", "digest": "c0ffee", "path": str(tmp_path)}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", "kefu", "--here"]) == 7
    assert "torch is not installed" in capfd.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    command = [sys.executable, str(instance.job_dir / "trainer" / "__main__.py")]
    monkeypatch.setattr(
        "costguard.preflight.trainer_command",
        lambda *words: ([*command, *words], instance.job_dir),
    )
    assert main(["export", "kefu", "--here", "--to", str(tmp_path / "out")]) == 0
    assert "nothing is charged" in capfd.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert instance.daemon.asked("visit") == []


def test_the_price_says_what_binds(capsys: pytest.CaptureFixture[str]) -> None:
    """An hour begun, a budget that reaches less far, and what the cap does not cover."""
    tell_price({**QUOTE, "quantum_s": 3_600, "reach_s": 690, "lines": ["best effort: by hand"]})
    told = capsys.readouterr().err
    assert "the budget reaches for 11.5 of them" in told
    assert "an hour begun is charged whole" in told
    assert "best effort: by hand" in told
    assert all(len(line) <= 80 for line in told.splitlines())
