"""GPU figures through NVML: sampled in a thread, handed out as windows.

What NVML does not say is None, never 0: a card that cannot be read is not an idle card.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import threading
from typing import TYPE_CHECKING, Any

from costguard.agent.cards import (
    DRIVER_CODES,
    MIB,
    Asker,
    CardTroubleError,
    CardWindow,
    XidWatch,
    read_card,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MIB", "GpuSampler", "NvmlAbsentError", "cuda_version", "load_nvml"]

LIBRARY = "libnvidia-ml.so.1"
REOPEN_S = 30.0
SILENT_SAMPLES = 5


class NvmlAbsentError(Exception):
    """There is no NVML on this machine; the text says what is missing."""


def load_nvml() -> Any:
    """The pynvml module, ready to be initialised; raises NvmlAbsentError.

    The library is tried first, so that a machine without one does not pay for the import.
    """
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NvmlAbsentError(f"no {LIBRARY}: no NVIDIA driver on this machine") from error
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise NvmlAbsentError("pynvml was not carried along") from error


class GpuSampler:
    """Samples every card each `sample_s`, in a thread that a hung driver may hang.

    States: `ok`; `absent` (no library, the normal case without a GPU; final); `lost` (a card is
    off the bus, or fewer are there than at first); `changed` (more are); `reset` (a card needs
    one, or the driver was unloaded or replaced); `error` (NVML failed or does not answer). All
    but `absent` are tried again each `reopen_s`. Whatever came and went is told in one window.
    """

    def __init__(
        self,
        sample_s: float,
        clock_ms: Callable[[], int],
        load: Callable[[], Any] = load_nvml,
        reopen_s: float = REOPEN_S,
    ) -> None:
        self._sample_s = sample_s
        self._clock_ms = clock_ms
        self._load = load
        self._reopen_s = reopen_s
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"state": "error", "detail": "NVML has not answered yet"}
        self._trouble: dict[str, Any] | None = None
        self._windows: dict[int, CardWindow] = {}
        self._cards_at_first: int | None = None
        self._heard_ms = clock_ms()
        self._opened = threading.Event()
        self._closed = threading.Event()

    def start(self, wait_s: float) -> dict[str, Any]:
        """Begins sampling; returns the state after at most `wait_s`."""
        threading.Thread(target=self._run, name="gpu", daemon=True).start()
        self._opened.wait(wait_s)
        return self.state()

    def close(self) -> None:
        """Ends the thread, unless the driver holds it."""
        self._closed.set()

    def state(self) -> dict[str, Any]:
        """State, detail, and once known driver, CUDA version and number of cards."""
        with self._lock:
            silent_ms = self._clock_ms() - self._heard_ms
            if self._state["state"] == "ok" and silent_ms > self._silence_ms():
                detail = f"NVML has not answered for {silent_ms / 1000:.0f} s"
                return {**self._state, "state": "error", "detail": detail}
            return dict(self._state)

    def window(self) -> dict[str, Any]:
        """`nvml` and `cards` of a `gpu` message, over the time since the last call."""
        state = self.state()
        with self._lock:
            windows, self._windows = self._windows, {}
            trouble, self._trouble = self._trouble, None
        cards = [windows[index].summary() for index in sorted(windows)]
        if state["state"] == "ok" and trouble is not None:
            state = {**trouble, "detail": f"{trouble['detail']} (answers again)"}
        return {
            "nvml": {"state": state["state"], "detail": state["detail"]},
            "cards": [] if state["state"] in ("absent", "error") else cards,
        }

    def _silence_ms(self) -> float:
        return max(SILENT_SAMPLES * self._sample_s, 5.0) * 1000

    def _run(self) -> None:
        while not self._closed.is_set():
            state, detail = self._sample()
            if state != "ok":
                self._set({"state": state, "detail": detail})
            if state == "absent":
                return
            self._closed.wait(self._reopen_s if state == "error" else self._sample_s)

    def _sample(self) -> tuple[str, str]:
        """Samples for as long as NVML works; returns the state that it ended in."""
        try:
            with _Opened(self._load()) as nvml:
                self._sample_for_a_while(nvml)
        except NvmlAbsentError as error:
            return "absent", str(error)
        except Exception as error:  # noqa: BLE001  NVML's errors are classes made at run time
            worked = self._cards_at_first is not None
            reset = worked and getattr(error, "value", None) in DRIVER_CODES
            return "reset" if reset else "error", f"{type(error).__name__}: {error}"
        return "ok", ""

    def _set(self, state: dict[str, Any]) -> None:
        with self._lock:
            if state["state"] != "ok":
                self._trouble = state
            self._state = state
            self._heard_ms = self._clock_ms()
        self._opened.set()

    def _sample_for_a_while(self, nvml: Any) -> None:
        """Until closed, or until NVML has to be opened anew to see what has become of a card."""
        count = nvml.nvmlDeviceGetCount()
        self._cards_at_first = count if self._cards_at_first is None else self._cards_at_first
        about = {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "cuda": cuda_version(nvml.nvmlSystemGetCudaDriverVersion()),
            "cards": count,
        }
        handles, gone = _handles(nvml, count)
        xids = XidWatch(nvml, handles)
        reopen_ms = self._clock_ms() + self._reopen_s * 1000
        while not self._closed.is_set() and nvml.nvmlDeviceGetCount() == count:
            seen = dict(gone)
            for index, handle in handles.items():
                seen[index] = self._look_at(nvml, handle, index)
            for index, codes in xids.poll().items():
                seen[index]["xids"] = codes
            with self._lock:
                for index, sample in seen.items():
                    self._windows.setdefault(index, CardWindow()).add(sample)
            state, detail = self._judge(count, seen)
            self._set({"state": state, "detail": detail, **about})
            if state != "ok" and self._clock_ms() >= reopen_ms:
                break
            self._closed.wait(self._sample_s)
        with contextlib.suppress(nvml.NVMLError):
            xids.close()

    def _look_at(self, nvml: Any, handle: Any, index: int) -> dict[str, Any]:
        window = self._windows.get(index)
        try:
            return read_card(nvml, handle, index, whole=window is None or window.lacks_the_slow)
        except CardTroubleError as trouble:
            return {"index": index, "state": trouble.state, "trouble": str(trouble)}

    def _judge(self, count: int, seen: Mapping[int, Mapping[str, Any]]) -> tuple[str, str]:
        told = [(card["state"], card["trouble"]) for card in seen.values() if "trouble" in card]
        first = self._cards_at_first or 0
        if count != first:
            what = f"{first} cards at first, {count} now"
            told.append(("lost" if count < first else "changed", what))
        if not told:
            return "ok", ""
        states = {state for state, _ in told}
        worst = next(state for state in ("lost", "reset", "changed") if state in states)
        return worst, "; ".join(detail for _, detail in told)


class _Opened:
    """NVML between its initialisation and its shutdown."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def __enter__(self) -> Any:
        self._nvml.nvmlInit()
        return self._nvml

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()


def _handles(nvml: Any, count: int) -> tuple[dict[int, Any], dict[int, dict[str, Any]]]:
    """The handles of the cards that give one, and what is wrong with the others."""
    handles: dict[int, Any] = {}
    gone: dict[int, dict[str, Any]] = {}
    for index in range(count):
        call = functools.partial(nvml.nvmlDeviceGetHandleByIndex, index)
        try:
            handles[index] = Asker(nvml, index)(call)
        except CardTroubleError as trouble:
            gone[index] = {"index": index, "state": trouble.state, "trouble": str(trouble)}
    return handles, gone


def cuda_version(number: int) -> str:
    """`12.4` for NVML's 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
