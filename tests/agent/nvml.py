"""The stand-in for NVIDIA's library, compiled once a run, and one who looks through it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.agent.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).with_name("nvml_stand_in.c")
LOOKER = Path(__file__).with_name("nvml_looker.py")
ROOT = Path(__file__).resolve().parents[2]


def compiler() -> str | None:
    """The system's C compiler, or None."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build(directory: Path) -> Path:
    """Compiles the stand-in under the name that pynvml loads; returns its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([str(compiler()), *flags, "-o", str(library), str(SOURCE)], check=True)
    return directory


class Looker:
    """A process that looks at the cards of a script through the real pynvml."""

    def __init__(
        self, library: Path, script: Path, values: dict[str, int], modules: Path | None = None
    ) -> None:
        self.values = values
        self._script = script
        self._write()
        env = {**os.environ, "LD_LIBRARY_PATH": str(library), "NVML_SCRIPT": str(script)}
        self._process = subprocess.Popen(
            [sys.executable, str(LOOKER)],
            env={**env, "PYTHONPATH": f"{modules}:{ROOT}" if modules else str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def change(self, **values: int | None) -> None:
        """Has the driver say something else from now on; None: what it says by itself.

        `_0_` at a name's start stands for card 0: `_0_util=3`, `_1_nvmlDeviceGetName=15`.
        """
        for name, value in values.items():
            key = name
            if name.startswith("_"):
                card, _, rest = name[1:].partition("_")
                key = f"{card}.{rest}"
            self.values.pop(key, None)
            if value is not None:
                self.values[key] = value
        self._write()

    def window(self) -> dict[str, Any]:
        """The figures since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first window that is so."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found.append(self.window())
            return true(found[-1])

        wait_until(look, "such a window")
        return found[-1]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _write(self) -> None:
        fresh = self._script.with_suffix(".new")
        fresh.write_text("".join(f"{key} {value}\n" for key, value in self.values.items()))
        fresh.replace(self._script)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer
