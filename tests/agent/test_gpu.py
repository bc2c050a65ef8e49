from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from costguard.agent import gpu
from costguard.agent.gpu import GpuLostError, GpuSampler, NvmlAbsentError
from tests.agent.harness import wait_until

GIB = 1 << 30


class NvmlError(Exception):
    """As pynvml's: carries the library's code."""

    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class FakeNvml:
    """Stands where the pynvml module stands; `fail` maps a function's name to an error code."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, cards: int = 1) -> None:
        self.cards = cards
        self.utils = [40]
        self.pids: list[int] = [os.getpid()]
        self.used = 10 * GIB
        self.fail: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*_arguments: object, **_options: object) -> Any:
            if name in self.fail:
                raise NvmlError(self.fail[name])
            return answers.get(name)

        util = self.utils.pop(0) if len(self.utils) > 1 and "Utiliz" in name else self.utils[0]
        if name == "nvmlMemory_v2":
            return 2
        answers = {
            "nvmlDeviceGetCount": self.cards,
            "nvmlSystemGetDriverVersion": "550.54",
            "nvmlSystemGetCudaDriverVersion": 12040,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": "A Card",
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=util, memory=0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=self.used, total=20 * GIB),
            "nvmlDeviceGetPowerUsage": 150_000,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x40 | 0x8000,
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=p) for p in self.pids],
        }
        return call


def sampled(nvml: FakeNvml, windows: int = 1) -> dict[str, Any]:
    """The first window in which there is something to see."""
    sampler = GpuSampler(0.01, lambda: 0, lambda: nvml)
    sampler.start(5)
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found.append(sampler.window())
        return bool(found[-1]["cards"]) or found[-1]["nvml"]["state"] != "ok"

    wait_until(look, "a window")
    sampler.close()
    return found[-1]


def test_a_window_holds_mean_and_maximum() -> None:
    """Over the samples of the window; memory in MiB, power in W, reasons by name."""
    window = gpu.CardWindow()
    nvml = FakeNvml(1)
    nvml.utils = [0, 100, 50, 50]
    for _ in range(3):
        window.add(gpu.read_card(nvml, "handle", 0))
    card = window.summary()
    assert (card["util_mean"], card["util_max"]) == (50.0, 100)
    assert (card["mem_used_mib"], card["mem_total_mib"]) == (10240, 20480)
    assert (card["power_w"], card["temp_c"]) == (150.0, 61)
    assert card["throttle"] == ["sw_power_cap", "hw_thermal", "0x8000"]
    assert card["pids"] == [os.getpid()]


def test_every_card_is_reported() -> None:
    """Each under its index."""
    assert [card["index"] for card in sampled(FakeNvml(3))["cards"]] == [0, 1, 2]


def test_what_a_card_does_not_offer_is_null_never_zero() -> None:
    """Not supported is not idle."""
    nvml = FakeNvml()
    for name in ("UtilizationRates", "PowerUsage", "Temperature", "CurrentClocksThrottleReasons"):
        nvml.fail[f"nvmlDeviceGet{name}"] = 3
    (card,) = sampled(nvml)["cards"]
    for key in ("util_mean", "util_max", "power_w", "temp_c", "throttle"):
        assert card[key] is None


@pytest.mark.parametrize(("code", "state"), [(15, "lost"), (16, "lost"), (999, "error")])
def test_a_lost_card_is_lost_not_idle(code: int, state: str) -> None:
    """A card off the bus, one that needs a reset, and an unknown fault: no figures."""
    nvml = FakeNvml()
    nvml.fail["nvmlDeviceGetUtilizationRates"] = code
    window = sampled(nvml)
    assert window["nvml"]["state"] == state
    assert str(code) in window["nvml"]["detail"]
    assert window["cards"] == []


def test_fewer_cards_than_before_are_a_loss() -> None:
    """After the driver was opened anew, the count is compared."""
    nvml = FakeNvml(4)
    sampler = GpuSampler(0.01, lambda: 0, lambda: nvml)
    sampler.close()  # so that sampling returns at once
    sampler._sample_until_it_fails(nvml)
    nvml.cards = 3
    with pytest.raises(GpuLostError, match="4 cards before, 3 now"):
        sampler._sample_until_it_fails(nvml)


def test_no_library_is_absent() -> None:
    """The normal case without a GPU: said so, with the reason."""

    def load() -> Any:
        raise NvmlAbsentError("no library")

    sampler = GpuSampler(0.01, lambda: 0, load)
    assert sampler.start(5) == {"state": "absent", "detail": "no library"}
    assert sampler.window() == {"nvml": {"state": "absent", "detail": "no library"}, "cards": []}


def test_a_driver_that_hangs_is_an_error() -> None:
    """Old figures are not handed out as new ones."""
    now = [0]
    nvml = FakeNvml()
    sampler = GpuSampler(0.5, lambda: now[0], lambda: nvml)
    sampler.start(5)
    sampler.close()
    assert sampler.state()["state"] == "ok"
    now[0] = 60_000
    window = sampler.window()
    assert window["nvml"]["state"] == "error"
    assert "60 s" in window["nvml"]["detail"]
    assert window["cards"] == []


@pytest.mark.parametrize(
    ("listed", "share", "visible"),
    [
        ([], 0.0, []),
        ([], 0.5, None),
        ([1 << 29], 0.5, None),
        (None, 0.0, None),
        ([], None, None),
    ],
)
def test_hidden_processes_are_unknown_never_none(
    listed: list[int] | None, share: float | None, visible: list[int] | None
) -> None:
    """In a container NVML lists nothing, or the host's numbers."""
    assert gpu.visible_pids(listed, share) == visible


def test_versions_are_readable() -> None:
    """NVML packs the CUDA version into one number."""
    assert gpu.cuda_version(12040) == "12.4"
