"""One sample of one card through NVML, and the window that samples make.

What NVML does not say is None, never 0: a card that cannot be read is not an idle card.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    0x200: "board_limit",
    0x400: "reliability",
}
# nvml.h, nvmlReturn_t: GPU_IS_LOST, GPU_NOT_FOUND; RESET_REQUIRED.
LOST_CODES = frozenset({15, 28})
RESET_CODES = frozenset({16})
# UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH: the driver under us is another one,
# or none, until NVML is opened anew.
DRIVER_CODES = frozenset({1, 9, 18})
# NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, NO_DATA, ARGUMENT_VERSION_MISMATCH,
# DEPRECATED: this card, driver or user does not get the figure; the others may be right.
NOT_OFFERED_CODES = frozenset({3, 4, 13, 21, 25, 26})
ALWAYS = ("index", "name", "state")
LATEST = (
    *("mem_used_mib", "mem_total_mib", "power_limit_w", "temp_c"),
    *("clock_sm_mhz", "clock_mem_mhz", "ecc_uncorrected", "pids"),
)
XIDS_AT_ONCE = 16


class CardTroubleError(Exception):
    """One card cannot be read; `state` is `lost` (off the bus) or `reset` (needs one)."""

    def __init__(self, state: str, what: str) -> None:
        super().__init__(what)
        self.state = state


@dataclass
class CardWindow:
    """What was sampled of one card since the last window."""

    latest: dict[str, Any] = field(default_factory=dict)
    utils: list[int] = field(default_factory=list)
    powers: list[float] = field(default_factory=list)
    throttle: int | None = None
    xids: list[int] | None = None

    @property
    def lacks_the_slow(self) -> bool:
        """Whether the figures that change slowly have not been asked for in this window."""
        return "name" not in self.latest

    def add(self, sample: Mapping[str, Any]) -> None:
        """Takes one sample in; what a later sample leaves out stays as it was."""
        self.latest.update(sample)
        if sample.get("util") is not None:
            self.utils.append(sample["util"])
        if sample.get("power_w") is not None:
            self.powers.append(sample["power_w"])
        if sample.get("throttle") is not None:
            self.throttle = (self.throttle or 0) | sample["throttle"]
        if sample.get("xids") is not None:
            self.xids = [*(self.xids or ()), *sample["xids"]]

    def summary(self) -> dict[str, Any]:
        """The card's entry in a `gpu` message; of a card that was lost within it, no figures."""
        known = self.latest.get("state") == "ok"
        utils, powers = (self.utils, self.powers) if known else ([], [])
        return {
            **{key: self.latest.get(key) for key in ALWAYS},
            **{key: self.latest.get(key) if known else None for key in LATEST},
            "util_mean": round(sum(utils) / len(utils), 1) if utils else None,
            "util_max": max(utils) if utils else None,
            "power_w": round(sum(powers) / len(powers), 1) if powers else None,
            "throttle": None if self.throttle is None else throttle_names(self.throttle),
            "xids": self.xids,
        }


class Asker:
    """Asks NVML about one card: the figure, None where it is not offered, or what is wrong.

    Raises CardTroubleError, or NVML's own error for what is neither.
    """

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._index = index

    def __call__(self, call: Callable[[], Any]) -> Any:
        """What `call` returns."""
        try:
            return call()
        except self._nvml.NVMLError as error:
            if error.value in LOST_CODES:
                raise CardTroubleError("lost", f"card {self._index}: {error}") from error
            if error.value in RESET_CODES:
                raise CardTroubleError("reset", f"card {self._index}: {error}") from error
            if error.value not in NOT_OFFERED_CODES:
                raise
            return None


def read_card(nvml: Any, handle: Any, index: int, *, whole: bool = True) -> dict[str, Any]:
    """One sample of one card; what it does not offer is None.

    With `whole`, also what changes slowly and is asked once a window: name, temperature, clocks,
    ECC errors that could not be corrected since the driver was loaded, and the processes.
    """
    ask = Asker(nvml, index)
    util = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    power_mw = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    sample = {
        "index": index,
        "state": "ok",
        "util": util.gpu if util else None,
        "power_w": None if power_mw is None else power_mw / 1000,
        "throttle": ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
    }
    return {**sample, **_slow_figures(nvml, handle, ask)} if whole else sample


def _slow_figures(nvml: Any, handle: Any, ask: Asker) -> dict[str, Any]:
    memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2))
    memory = memory or ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    listed = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    share = memory.used / memory.total if memory and memory.total else None
    limit_mw = ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return {
        "name": ask(lambda: nvml.nvmlDeviceGetName(handle)),
        "mem_used_mib": memory.used // MIB if memory else None,
        "mem_total_mib": memory.total // MIB if memory else None,
        "power_limit_w": None if limit_mw is None else limit_mw / 1000,
        "temp_c": ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        "clock_sm_mhz": ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        "clock_mem_mhz": ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        "ecc_uncorrected": ask(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since)),
        "pids": visible_pids(None if listed is None else [row.pid for row in listed], share),
    }


class XidWatch:
    """The Xid errors that the driver tells of since this was opened, where it offers them.

    NVIDIA's "Xid Errors" document says what each number means. Containers and older cards often
    refuse: then nothing is known, which is not the same as no error.
    """

    def __init__(self, nvml: Any, handles: Mapping[int, Any]) -> None:
        self._nvml = nvml
        self._by_address = {_address(handle): index for index, handle in handles.items()}
        self._watched: set[int] = set()
        self._events: Any = None
        try:
            self._events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return
        for index, handle in handles.items():
            try:
                nvml.nvmlDeviceRegisterEvents(
                    handle, nvml.nvmlEventTypeXidCriticalError, self._events
                )
            except nvml.NVMLError:
                continue
            self._watched.add(index)

    def poll(self) -> dict[int, list[int]]:
        """The new Xids of each card that is watched; of others nothing, not even an empty list."""
        found: dict[int, list[int]] = {index: [] for index in self._watched}
        for _ in range(XIDS_AT_ONCE if self._watched else 0):
            try:
                event = self._nvml.nvmlEventSetWait(self._events, 0)
            except self._nvml.NVMLError as error:
                if error.value != self._nvml.NVML_ERROR_TIMEOUT:
                    self._watched.clear()  # lost or unsupported: from here on unknown
                    return {}
                return found
            index = self._by_address.get(_address(event.device))
            if index in found:
                found[index].append(int(event.eventData))
        return found

    def close(self) -> None:
        """Gives the event set back, which is the driver's memory; raises NVML's errors."""
        if self._events is not None:
            self._nvml.nvmlEventSetFree(self._events)


def _address(handle: Any) -> int | None:
    """What a handle points to: two handles of one card are two objects."""
    return ctypes.cast(handle, ctypes.c_void_p).value


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
