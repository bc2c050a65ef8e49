"""What only a process of its own can show: signals while it loads, kill -9, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainer.exits import FINISHED, SAVED_ON_REQUEST, USAGE
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import Config

ROOT = Path(__file__).parents[2]


def arguments(config: Config) -> list[str]:
    """The command line that gives `config` its paths; the rest are test_flags' business."""
    return [
        *("--model_name_or_path", config.model_name_or_path, "--dataset", str(config.dataset)),
        *("--output_dir", str(config.output_dir), "--quantization_bit", "4", "--max_steps", "8"),
    ]


@pytest.mark.torch
def test_a_stop_while_it_loads_is_answered_at_once(make_config: Callable[..., Config]) -> None:
    """SIGTERM during the imports: exit 75 within 5 s, and status.json says stopped."""
    config = make_config()
    command = [sys.executable, "-m", "trainer", "train", *arguments(config)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    status = config.output_dir / "status.json"
    try:
        deadline_s = time.monotonic() + 30
        while not status.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        asked_s = time.monotonic()
        assert child.wait(timeout=30) == SAVED_ON_REQUEST
        assert time.monotonic() - asked_s < 5
    finally:
        child.kill()
        child.wait()
    told = json.loads(status.read_text())
    assert (told["phase"], told["exit_code"]) == ("stopped", SAVED_ON_REQUEST)


KILLED = """
import os, pathlib, signal, sys
from trainer.config import Config
from trainer.train import run

def kill(step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

fields = {fields!r}
for name in ("dataset", "output_dir"):
    fields[name] = pathlib.Path(fields[name])
run(Config(**fields), kill)
"""


@pytest.mark.torch
def test_after_kill_minus_nine_it_ends_as_if_nothing_had_been(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Killed after step 5, resumed from step 4 in another process: bit for bit the same adapter."""
    assert run(make_config(output_dir=tmp_path / "whole", lora_dropout=0.1)) == FINISHED
    config = make_config(output_dir=tmp_path / "killed", lora_dropout=0.1, save_steps=2)
    fields = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(config).items()
        if name not in {"run", "row_format"}  # the defaults, which have no literal
    }
    program = KILLED.format(fields=fields)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    steps: list[int] = []
    assert run(config, steps.append) == FINISHED
    assert steps == [5, 6, 7, 8]
    whole, killed = (
        hashlib.sha256((tmp_path / name / "adapter/adapter_model.safetensors").read_bytes())
        for name in ("whole", "killed")
    )
    assert killed.hexdigest() == whole.hexdigest()


def test_a_wrong_flag_exits_2_and_starts_nothing(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """One message on stderr, no traceback, no output directory."""
    config = make_config(output_dir=tmp_path / "none")
    command = [sys.executable, "-m", "trainer", "train", *arguments(config), "--max_step", "9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == USAGE
    assert done.stderr == "unknown flag --max_step\n  did you mean --max_steps?\n"
    assert not config.output_dir.exists()


@pytest.mark.torch
def test_a_stop_while_it_downloads_is_answered_at_once(few_rows: Path, tmp_path: Path) -> None:
    """SIGTERM while a hub does not answer: exit 75 within 5 s, as in every other phase."""
    silent = socket.create_server(("127.0.0.1", 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", "--model_name_or_path", "qwen/x",
         "--model_source", "huggingface", "--dataset", str(few_rows),
         "--output_dir", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
             "COSTGUARD_MODELS": str(tmp_path), "no_proxy": "127.0.0.1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        silent.settimeout(60)
        connection, _address = silent.accept()
        child.send_signal(signal.SIGTERM)
        asked_s = time.monotonic()
        assert child.wait(timeout=30) == SAVED_ON_REQUEST
        assert time.monotonic() - asked_s < 5
        connection.close()
    finally:
        child.kill()
        child.wait()
        silent.close()
