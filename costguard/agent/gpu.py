"""GPU figures through NVML: sampled in a thread, handed out as windows.

What NVML does not say is None, never 0: a card that cannot be read is not an idle card.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = "libnvidia-ml.so.1"
REOPEN_S = 30.0
SILENT_SAMPLES = 5
MIB = 1024 * 1024
# Below this share of its memory in use, a card on which no process is listed really has none;
# above it, the list is hidden from us, as containers do.
EMPTY_SHARE = 0.01
# nvml.h, "nvmlClocksEventReason*" (older name: "nvmlClocksThrottleReason*").
THROTTLE_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
}
# nvml.h, nvmlReturn_t: GPU_IS_LOST, RESET_REQUIRED.
LOST_CODES = frozenset({15, 16})
# NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, NO_DATA, ARGUMENT_VERSION_MISMATCH,
# DEPRECATED: this card, driver or user does not get the figure; the others may be right.
NOT_OFFERED_CODES = frozenset({3, 4, 13, 21, 25, 26})


class NvmlAbsentError(Exception):
    """There is no NVML on this machine; the text says what is missing."""


class GpuLostError(Exception):
    """A card has fallen off the bus, needs a reset, or is no longer listed."""


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


@dataclass
class CardWindow:
    """What was sampled of one card since the last window."""

    latest: dict[str, Any] = field(default_factory=dict)
    utils: list[int] = field(default_factory=list)
    powers: list[float] = field(default_factory=list)
    throttle: int | None = None

    def add(self, sample: dict[str, Any]) -> None:
        """Takes one sample in."""
        self.latest = sample
        if sample["util"] is not None:
            self.utils.append(sample["util"])
        if sample["power_w"] is not None:
            self.powers.append(sample["power_w"])
        if sample["throttle"] is not None:
            self.throttle = (self.throttle or 0) | sample["throttle"]

    def summary(self) -> dict[str, Any]:
        """The card's entry in a `gpu` message."""
        kept = ("index", "name", "mem_used_mib", "mem_total_mib", "temp_c", "pids")
        return {
            **{key: self.latest[key] for key in kept},
            "util_mean": round(sum(self.utils) / len(self.utils), 1) if self.utils else None,
            "util_max": max(self.utils) if self.utils else None,
            "power_w": round(sum(self.powers) / len(self.powers), 1) if self.powers else None,
            "throttle": None if self.throttle is None else throttle_names(self.throttle),
        }


class GpuSampler:
    """Samples every card each `sample_s`, in a thread that a hung driver may hang.

    States: `ok`; `absent` (no library, the normal case without a GPU; final); `error` (NVML
    failed or does not answer); `lost` (a card is gone). The latter two are tried again.
    """

    def __init__(
        self,
        sample_s: float,
        clock_ms: Callable[[], int],
        load: Callable[[], Any] = load_nvml,
    ) -> None:
        self._sample_s = sample_s
        self._clock_ms = clock_ms
        self._load = load
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"state": "error", "detail": "NVML has not answered yet"}
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
        cards = [windows[index].summary() for index in sorted(windows)]
        return {
            "nvml": {"state": state["state"], "detail": state["detail"]},
            "cards": cards if state["state"] == "ok" else [],
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
            self._closed.wait(REOPEN_S)

    def _sample(self) -> tuple[str, str]:
        """Samples for as long as NVML works; returns the state that it ended in."""
        try:
            self._sample_until_it_fails(self._load())
        except NvmlAbsentError as error:
            return "absent", str(error)
        except GpuLostError as error:
            return "lost", str(error)
        except Exception as error:  # noqa: BLE001  NVML's errors are classes made at run time
            return "error", f"{type(error).__name__}: {error}"
        return "ok", ""

    def _set(self, state: dict[str, Any]) -> None:
        with self._lock:
            self._state = state
            self._heard_ms = self._clock_ms()
        self._opened.set()

    def _sample_until_it_fails(self, nvml: Any) -> None:
        nvml.nvmlInit()
        try:
            count = nvml.nvmlDeviceGetCount()
            self._cards_at_first = max(count, self._cards_at_first or 0)
            if count < self._cards_at_first:
                raise GpuLostError(f"{self._cards_at_first} cards before, {count} now")
            versions = {
                "driver": nvml.nvmlSystemGetDriverVersion(),
                "cuda": cuda_version(nvml.nvmlSystemGetCudaDriverVersion()),
            }
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self._set({"state": "ok", "detail": "", **versions, "cards": count})
            while not self._closed.is_set():
                samples = [read_card(nvml, handle, at) for at, handle in enumerate(handles)]
                with self._lock:
                    self._heard_ms = self._clock_ms()
                    for sample in samples:
                        self._windows.setdefault(sample["index"], CardWindow()).add(sample)
                self._closed.wait(self._sample_s)
        finally:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def read_card(nvml: Any, handle: Any, index: int) -> dict[str, Any]:
    """One sample of one card; what it does not offer is None.

    Raises GpuLostError when the card is gone, and NVML's own error when it cannot be believed.
    """

    def ask(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except nvml.NVMLError as error:
            if error.value in LOST_CODES:
                raise GpuLostError(f"card {index}: {error}") from error
            if error.value not in NOT_OFFERED_CODES:
                raise
            return None

    memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2))
    memory = memory or ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    util = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    power_mw = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    listed = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    share = memory.used / memory.total if memory and memory.total else None
    return {
        "index": index,
        "name": ask(lambda: nvml.nvmlDeviceGetName(handle)),
        "util": util.gpu if util else None,
        "mem_used_mib": memory.used // MIB if memory else None,
        "mem_total_mib": memory.total // MIB if memory else None,
        "power_w": None if power_mw is None else power_mw / 1000,
        "temp_c": ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        "throttle": ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        "pids": visible_pids(None if listed is None else [row.pid for row in listed], share),
    }


def visible_pids(listed: list[int] | None, memory_share: float | None) -> list[int] | None:
    """The processes on a card, or None where they are hidden: unknown is not none.

    In a container NVML lists nothing, or numbers of the host's that mean nothing here.
    """
    if listed is None:
        return None
    here = [pid for pid in listed if Path(f"/proc/{pid}").exists()]
    if here:
        return here
    really_empty = not listed and memory_share is not None and memory_share < EMPTY_SHARE
    return [] if really_empty else None


def throttle_names(bits: int) -> list[str]:
    """The names of the throttle reasons in a bit mask; unknown bits in hexadecimal."""
    names = [name for bit, name in THROTTLE_REASONS.items() if bits & bit]
    unknown = bits & ~sum(THROTTLE_REASONS)
    return [*names, hex(unknown)] if unknown else names


def cuda_version(number: int) -> str:
    """`12.4` for NVML's 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
