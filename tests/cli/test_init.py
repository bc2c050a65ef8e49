from __future__ import annotations

import io
import os
import pty
import select
import stat
import sys
import time
from typing import TYPE_CHECKING

import pytest

from costguard import lang
from costguard.cli.main import main
from costguard.jobfile import load_job
from costguard.providers import DECLARATIONS
from costguard.settings import load_settings
from costguard.tomlfile import loads

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "pl4nted-t0ken"
FIRST = ("--budget", "80", "--name", "kefu", "--no-check")
# What each platform must be told beside its secrets.
TOLD: dict[str, tuple[str, ...]] = {
    "autodl": ("--price", "1.98"),
    "xiangongyun": ("--price", "1.98"),
    "runpod": ("--yuan-per-usd", "7.3"),
    "vast": ("--yuan-per-usd", "7.3"),
    "aws": ("--yuan-per-usd", "7.3", "--price", "1.006"),
    "ssh": ("--ssh", "ssh -p 12345 root@127.0.0.1", "--price", "¥15"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data set, and nobody at the terminal."""
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return folder


def files_of(place: Path) -> dict[str, str]:
    """Every file below a folder, with its text."""
    return {
        str(path.relative_to(place)): path.read_text(encoding="utf-8")
        for path in place.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", [*DECLARATIONS, "ssh", "local"])
def test_what_is_written_is_understood(
    name: str, here: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Config, secrets and job file, by flags and a pipe alone; the secrets are found again."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SECRET}\n" * 4))
    arguments = ["--provider", name, *TOLD.get(name, ()), *FIRST, "--secrets-stdin"]
    assert main(["init", *arguments, "--month-budget", "500", "--image", "x"]) == 0
    settings = load_settings(home)
    assert settings.budgets.month_micros == 500_000_000
    job = loads((here / "job.toml").read_text(encoding="utf-8"))
    assert (job["job"]["name"], len(job["stages"])) == ("kefu", 2)
    if name in ("autodl", "ssh"):
        spec = load_job(here / "job.toml", check_data=False)
        assert spec.cap_micros == 80_000_000
        assert spec.instance.provider == ("ssh.box1" if name == "ssh" else name)
    if name in DECLARATIONS:
        found = DECLARATIONS[name].gather(settings.account_table(name), settings.secret)
        account = DECLARATIONS[name].open(found)
        assert account.facts.name == name
    for path in home.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert SECRET not in (here / "job.toml").read_text()
    assert SECRET not in (home / "config.toml").read_text()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_comments_are_in_the_language_that_is_spoken(
    language: str, here: Path, home: Path
) -> None:
    """Whether by the locale or by --lang; and the config goes on speaking it."""
    assert main(["init", "--lang", language, "--provider", "local", *FIRST]) == 0
    text = (here / "job.toml").read_text(encoding="utf-8")
    assert ("预算" in text) is (language == "zh")
    assert load_settings(home).lang == language
    lang.select("en")


def test_what_is_missing_is_named_by_its_flag(
    here: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written."""
    assert main(["init", "--provider", "autodl", "--budget", "80"]) == 2
    assert "--price is missing" in capsys.readouterr().err
    assert main(["init", "--provider", "autodl", "--price", "2", "--budget", "8O"]) == 2
    assert "'8O' is no sum" in capsys.readouterr().err
    assert main(["init", "--provider", "autod"]) == 2
    assert "none of: compshare, autodl" in capsys.readouterr().err
    assert main(["init", "--provider", "ssh", "--ssh", "root", "--budget", "1"]) == 2
    assert files_of(home) == {}
    assert not (here / "job.toml").exists()


def test_a_job_file_that_is_there_is_left_alone(
    here: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is asked."""
    (here / "job.toml").write_text("mine")
    assert main(["init", "--provider", "local", *FIRST]) == 2
    assert "nothing here is overwritten" in capsys.readouterr().err
    assert (here / "job.toml").read_text() == "mine"
    assert files_of(home) == {}


@pytest.mark.usefixtures("here")
def test_a_second_platform_is_added_only_where_that_was_agreed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the config held stays as it was, to the letter; a table that is there is kept."""
    old = '# mine\nlang = "en"\n[providers.runpod]\nyuan_per_usd = 7\n'
    (home / "config.toml").write_text(old)
    arguments = ["init", "--provider", "autodl", "--price", "2", *FIRST, "--job", "two.toml"]
    assert main(arguments) == 2
    assert "prices_yuan_per_hour" in capsys.readouterr().err, "what would be added is shown"
    assert files_of(home) == {"config.toml": old}
    assert main([*arguments, "--yes"]) == 0
    text = (home / "config.toml").read_text()
    assert text.startswith(old.rstrip())
    assert set(load_settings(home).providers) == {"runpod", "autodl"}
    again = ["init", "--provider", "autodl", *FIRST, "--job", "three.toml"]
    assert main(again) == 0
    assert "in the config already and is kept" in capsys.readouterr().err
    assert (home / "config.toml").read_text() == text


@pytest.mark.usefixtures("here")
def test_a_secret_that_is_there_is_kept(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe does not replace it; one that is broken in two is refused."""
    (home / "autodl.token").touch(0o600)
    (home / "autodl.token").write_text("old")
    monkeypatch.setattr(sys, "stdin", io.StringIO("new\n"))
    arguments = ["init", "--provider", "autodl", "--price", "2", *FIRST, "--secrets-stdin"]
    assert main(arguments) == 0
    assert (home / "autodl.token").read_text() == "old"
    assert "autodl.token is there already and is kept" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("a token\n"))
    other = ["init", "--provider", "chenyu", *FIRST, "--job", "b.toml", "--secrets-stdin", "--yes"]
    assert main(other) == 2
    assert not (home / "chenyu.token").exists()


@pytest.mark.usefixtures("here")
def test_a_notification_channel_gets_its_address_and_its_signature(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the platform's secrets, in the order in which they would be asked."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"t0ken\nhttps://h.example/x\n{SECRET}\n"))
    arguments = ["init", "--provider", "autodl", "--price", "2", *FIRST, "--secrets-stdin"]
    assert main([*arguments, "--notify", "dingtalk"]) == 0
    settings = load_settings(home)
    assert settings.notify.channels["dingtalk"].kind == "dingtalk"
    signing = settings.channel_secret("dingtalk", "secret")
    assert signing is not None
    assert signing.get_secret_value() == SECRET


def test_it_ends_with_doctor_and_the_next_commands(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor's exit code is its own; what cannot be used yet is said."""
    monkeypatch.setenv("COLUMNS", "300")
    (here / "data" / "train.jsonl").unlink()
    arguments = [*FIRST[:-1], "--provider", "autodl", "--price", "2"]
    assert main(["init", *arguments]) == 1
    out, err = capsys.readouterr()
    assert "NOT FIT: autodl needs its 开发者Token" in " ".join(out.split())
    assert "控制台 > 账号 > 设置 > 开发者Token" in err
    assert "train.jsonl is not there yet" in " ".join(err.split())
    assert "costguard images --provider autodl" in err
    assert "costguard estimate job.toml" in err
    assert "--drill" not in err, "AutoDL has no timer to prove"


def test_where_nothing_bounds_the_cost_the_next_command_says_so(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run there is refused unless that is accepted."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SECRET}\n"))
    arguments = ["--provider", "autodl", "--price", "2", *FIRST, "--secrets-stdin"]
    assert main(["init", *arguments]) == 0
    assert "costguard run job.toml --best-effort" in capsys.readouterr().err
    assert (here / "job.toml").exists()


def test_a_terminal_is_asked_and_a_secret_is_not_shown(here: Path, home: Path) -> None:
    """A wrong answer is asked for again; the rest are the defaults."""
    answers = ["compshare", SECRET, SECRET, "", "", "", "8O", "80", "", "", ""]
    shown, code = at_a_terminal(answers, here, "--no-check", "--lang", "zh")
    assert code == 0, shown
    assert SECRET not in shown
    assert "console.compshare.cn/uaccount/api_manage" in shown
    assert "'8O' 不是金额" in shown
    assert "costguard doctor --provider compshare --drill" in shown
    assert (home / "compshare.private_key").read_text() == f"{SECRET}\n"
    assert 'name = "work"' in (here / "job.toml").read_text(encoding="utf-8")


def test_ctrl_c_leaves_nothing(here: Path, home: Path) -> None:
    """After the secrets were typed, too."""
    shown, code = at_a_terminal(["compshare", SECRET, SECRET, "", "\x03"], here)
    assert code == 130, shown
    assert "nothing was written" in shown
    assert files_of(home) == {}
    assert not (here / "job.toml").exists()


def at_a_terminal(answers: list[str], here: Path, *arguments: str) -> tuple[str, int]:
    """What `init` shows at a terminal of its own, given an answer at each question; its code."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(here)
        os.environ["LC_ALL"] = "C.UTF-8"
        os.execv(sys.executable, [sys.executable, "-m", "costguard", "init", *arguments])
    shown, waiting, deadline = b"", [*answers], time.monotonic() + 60
    since = 0
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                piece = os.read(terminal, 4_096)
            except OSError:  # the child has closed its end
                break
            shown += piece
        elif waiting and b": " in shown[since:]:
            since = len(shown)
            answer = waiting.pop(0)
            os.write(terminal, answer.encode() if answer == "\x03" else f"{answer}\n".encode())
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
