"""Where a run's numbers are shown besides its own log: TensorBoard, SwanLab. Neither is needed.

A board must never end a run, or hold up its end: what goes wrong with one is said once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from trainer.exits import CRASHED, FINISHED, SAVED_ON_REQUEST, USAGE, Refusal
from trainer.progress import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

OFFLINE = "offline"
SWANLAB_MODES = (OFFLINE, "local", "cloud", "disabled")
SWANLAB_KEY = "SWANLAB_API_KEY"
LOG_FOLDER = "swanlog"
OPEN_S = 30.0
"""How long a run waits for a board before its first step: a network that is down costs no more."""
FINISH_S = 20.0
"""How long the end of a run waits for a board to take the last numbers."""
AGAIN_S = 0.5
"""Then it is told to give up, every so often: some catch what they are told."""


class Board(Protocol):
    """Takes numbers, and ends."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""

    def close(self, code: int | None) -> None:
        """The run ended with that exit code; None: by an error."""


@dataclass(frozen=True)
class SwanLabOptions:
    """LLaMA-Factory's flags for it, but that nothing is sent anywhere unless asked to."""

    mode: str = OFFLINE
    project: str = "costguard"
    workspace: str | None = None
    run_name: str | None = None
    logdir: Path | None = None


def require_swanlab(options: SwanLabOptions) -> None:
    """Return if SwanLab can be used as asked; raises Refusal before anything is paid for."""
    if find_spec("swanlab") is None:
        hint = "pip install swanlab, or leave it out: trainer_log.jsonl has all numbers"
        raise Refusal(USAGE, "--use_swanlab needs the package swanlab", hint=hint)
    if options.mode == "cloud" and not os.environ.get(SWANLAB_KEY):
        # It would ask for a key on a terminal that nobody sits at.
        what = f"--swanlab_mode cloud needs {SWANLAB_KEY} in the environment"
        hint = "or use --swanlab_mode offline, and `swanlab sync` from where your key is"
        raise Refusal(USAGE, what, hint=hint)
    if options.mode == "local" and find_spec("swanboard") is None:
        hint = "pip install 'swanlab[dashboard]', or use --swanlab_mode offline"
        raise Refusal(USAGE, "--swanlab_mode local needs the package swanboard", hint=hint)


class Boards:
    """All boards of one run."""

    def __init__(
        self,
        output_dir: Path,
        *,
        tensorboard: bool = False,
        swanlab: SwanLabOptions | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._boards: list[Board] = []
        if tensorboard:
            self._open("--tensorboard", lambda: TensorBoard(output_dir))
        if swanlab:
            self._open("--use_swanlab", lambda: SwanLab(output_dir, swanlab, facts or {}))

    def add(self, step: int, **numbers: float | None) -> None:
        """Add the numbers of a step to each board; None is left out."""
        known = {name: value for name, value in numbers.items() if value is not None}
        for board in list(self._boards):
            try:
                board.add(step, known)
            except Exception as error:  # noqa: BLE001 - whatever a board does, the run goes on
                warn(f"{type(board).__name__}: {error}: it gets no more numbers")
                self._boards.remove(board)

    def close(self, code: int | None, at_most_s: float = FINISH_S) -> None:
        """End all boards, in the main thread; one that does not end in time is left behind."""
        for board in self._boards:
            try:
                with _at_most(at_most_s):
                    board.close(code)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the run is over, all is saved
                warn(f"{type(board).__name__}: {error}")
        self._boards = []

    def _open(self, flag: str, make: Callable[[], Board]) -> None:
        try:
            with _at_most(OPEN_S):
                self._boards.append(make())
        except ImportError as error:
            warn(f"{flag}: the package {error.name} is not there: pip install {error.name}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - some end the process themselves
            warn(f"{flag}: {error}: the run goes on without it")


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Inside, in the main thread, TimeoutError is raised after `seconds`, and again after that."""

    def give_up(_number: int, _frame: object) -> None:
        raise TimeoutError(f"it did not answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class TensorBoard:
    """Writes to `runs/` in the output directory."""

    def __init__(self, output_dir: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(name="tensorboard") from error
        self._writer = SummaryWriter(log_dir=str(output_dir / "runs"))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, _code: int | None) -> None:
        """Close its file."""
        self._writer.close()


class SwanLab:
    """A SwanLab run; its files are in `swanlog/` in the output directory."""

    def __init__(self, output_dir: Path, options: SwanLabOptions, facts: Mapping[str, Any]) -> None:
        import swanlab  # type: ignore[import-not-found]

        self._swanlab = swanlab
        folder = options.logdir or output_dir / LOG_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        numbers = (signal.SIGINT, signal.SIGTERM)
        ours = [signal.getsignal(number) for number in numbers]
        try:
            swanlab.init(
                project=options.project,
                workspace=options.workspace,
                experiment_name=options.run_name or output_dir.name,
                mode=options.mode,
                logdir=str(folder),
                config=dict(facts),
            )
        finally:
            # It takes Ctrl-C for itself (0.10): a stop would be answered by it, and save nothing.
            for number, handler in zip(numbers, ours, strict=True):
                signal.signal(number, handler)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""
        self._swanlab.log(dict(numbers), step=step)

    def close(self, code: int | None) -> None:
        """Tell it how the run ended."""
        if code == FINISHED:
            self._swanlab.finish()
        elif code == SAVED_ON_REQUEST:
            self._swanlab.finish(state="aborted")
        else:
            self._swanlab.finish(state="crashed", error=f"exit {CRASHED if code is None else code}")
