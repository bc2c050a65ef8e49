from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent import cards, gpu
from costguard.agent.cards import CardWindow
from costguard.agent.gpu import GpuSampler, NvmlAbsentError
from costguard.core.snapshot import TrainingFacts
from costguard.core.training import fold
from costguard.remote.bundle import build_agent
from tests.agent.harness import wait_until
from tests.agent.nvml import Looker, build, compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.agent.harness import Job

FIGURES = (
    *("util_mean", "util_max", "power_w", "temp_c", "mem_used_mib", "clock_sm_mhz"),
    *("throttle", "ecc_uncorrected", "pids"),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the stand-in for libnvidia-ml.so.1."""
    if compiler() is None:
        pytest.skip("no C compiler (cc, gcc or clang): the stand-in for NVML cannot be built")
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def look(library: Path, tmp_path: Path) -> Iterator[Callable[..., Looker]]:
    """Looks at cards that behave as told."""
    made: list[Looker] = []

    def make(values: dict[str, int] | None = None, modules: Path | None = None) -> Looker:
        made.append(Looker(library, tmp_path / "script", dict(values or {}), modules))
        return made[-1]

    yield make
    for one in made:
        one.close()


def has_cards(window: dict[str, Any]) -> bool:
    """Whether there was a sample in it."""
    return bool(window["cards"])


def gpu_percent(window: dict[str, Any]) -> int | None:
    """What the guards make of it: None is unknown, and unknown is never idle."""
    return fold(TrainingFacts(), {"t": "gpu", "boot_ms": 1, **window}).windows[0].gpu_percent_max


def test_a_card_tells_everything_that_is_offered(look: Callable[..., Looker]) -> None:
    """Utilisation, memory, power and its limit, heat, clocks, throttling, ECC, Xid, processes."""
    looker = look({"0.pid": os.getpid(), "0.ecc": 3, "0.throttle": 0x4 | 0x40 | 0x8000})
    told = {"state": "ok", "detail": "", "driver": "535.129.03", "cuda": "12.2", "cards": 1}
    assert looker.first == told
    (card,) = looker.until(has_cards)["cards"]
    assert card == {
        "index": 0,
        "name": "Stand-in 0",
        "state": "ok",
        "util_mean": 97.0,
        "util_max": 97,
        "mem_used_mib": 18000,
        "mem_total_mib": 24576,
        "power_w": 310.0,
        "power_limit_w": 350.0,
        "temp_c": 64,
        "clock_sm_mhz": 1695,
        "clock_mem_mhz": 9501,
        "throttle": ["sw_power_cap", "hw_thermal", "0x8000"],
        "ecc_uncorrected": 3,
        "xids": [],
        "pids": [os.getpid()],
    }


def test_the_part_of_pynvml_that_travels_is_enough(
    look: Callable[..., Looker], tmp_path: Path
) -> None:
    """What the bundle holds of it gives the same answers, good and bad, as the whole."""
    with zipfile.ZipFile(io.BytesIO(build_agent())) as bundle:
        bundle.extract("pynvml.py", tmp_path / "modules")
    looker = look({"0.pid": os.getpid(), "0.xid": 79}, tmp_path / "modules")
    assert looker.first["state"] == "ok"
    (card,) = looker.until(lambda seen: has_cards(seen) and bool(seen["cards"][0]["xids"]))["cards"]
    assert None not in card.values()
    looker.change(nvmlDeviceGetName=3, nvmlDeviceGetMemoryInfo_v2=13)
    (card,) = looker.until(lambda seen: has_cards(seen) and seen["cards"][0]["name"] is None)[
        "cards"
    ]
    assert card["mem_used_mib"] == 18000
    looker.change(nvmlDeviceGetUtilizationRates=15)
    looker.until(lambda seen: seen["nvml"]["state"] == "lost")


def test_every_card_is_reported(look: Callable[..., Looker]) -> None:
    """Each under its index, with its own figures."""
    looker = look({"count": 3, "0.util": 1, "1.util": 50, "2.util": 99})
    seen = looker.until(has_cards)["cards"]
    assert [(card["index"], card["util_max"]) for card in seen] == [(0, 1), (1, 50), (2, 99)]
    assert gpu_percent(looker.until(has_cards)) == 99


def test_what_a_card_does_not_offer_is_null_never_zero(look: Callable[..., Looker]) -> None:
    """`N/A` in nvidia-smi's words: not supported is not idle."""
    functions = (
        *("UtilizationRates", "PowerUsage", "Temperature", "MemoryInfo", "MemoryInfo_v2"),
        *("CurrentClocksThrottleReasons", "ClockInfo", "TotalEccErrors"),
        "ComputeRunningProcesses_v3",
    )
    looker = look({f"0.nvmlDeviceGet{name}": 3 for name in functions})
    window = looker.until(has_cards)
    assert window["nvml"]["state"] == "ok"
    assert {key: window["cards"][0][key] for key in FIGURES} == dict.fromkeys(FIGURES)
    assert gpu_percent(window) is None


def test_an_old_driver_without_the_newer_memory_call_is_asked_the_older(
    look: Callable[..., Looker],
) -> None:
    """nvmlDeviceGetMemoryInfo_v2 came with driver 510."""
    looker = look({"nvmlDeviceGetMemoryInfo_v2": 13})
    assert looker.until(has_cards)["cards"][0]["mem_used_mib"] == 18000


def test_a_lost_card_is_lost_and_the_others_are_still_told(look: Callable[..., Looker]) -> None:
    """Off the bus: no figures of it, and what the others say is not taken for the whole."""
    looker = look({"count": 2, "1.util": 0, "1.used_mib": 0})
    looker.until(has_cards)
    looker.change(_0_nvmlDeviceGetUtilizationRates=15, _1_util=0)
    window = looker.until(lambda seen: seen["nvml"]["state"] == "lost")
    window = looker.until(has_cards)
    assert window["nvml"] == {"state": "lost", "detail": "card 0: GPU is lost"}
    lost, other = window["cards"]
    assert lost["state"] == "lost"
    assert {key: lost[key] for key in FIGURES} == dict.fromkeys(FIGURES)
    assert other["util_max"] == 0
    assert gpu_percent(window) is None


def test_a_card_that_comes_back_is_told_so(look: Callable[..., Looker]) -> None:
    """NVML is opened anew for it; afterwards everything is as before."""
    looker = look({"count": 2, "0.nvmlDeviceGetHandleByIndex_v2": 15})
    assert looker.first["state"] == "lost"
    looker.change(_0_nvmlDeviceGetHandleByIndex_v2=None)
    window = looker.until(lambda seen: seen["nvml"]["state"] == "ok" and has_cards(seen))
    assert [card["state"] for card in window["cards"]] == ["ok", "ok"]


def test_a_card_that_needs_a_reset_says_so(look: Callable[..., Looker]) -> None:
    """As after an uncorrectable memory error: neither idle nor busy."""
    looker = look()
    looker.change(nvmlDeviceGetPowerUsage=16)
    window = looker.until(lambda seen: seen["nvml"]["state"] == "reset")
    assert window["nvml"]["detail"] == "card 0: GPU requires restart"  # pynvml's words
    assert gpu_percent(window) is None


def test_a_driver_that_is_reset_under_us_is_told_and_opened_anew(
    look: Callable[..., Looker],
) -> None:
    """Not loaded for a moment: no figures, and tried again."""
    looker = look({"0.util": 0})
    looker.until(has_cards)
    looker.change(init=9, nvmlDeviceGetCount_v2=9)
    window = looker.until(lambda seen: seen["nvml"]["state"] == "reset")
    assert "Driver Not Loaded" in window["nvml"]["detail"]
    assert gpu_percent(window) is None
    looker.change(init=None, nvmlDeviceGetCount_v2=None)
    looker.until(lambda seen: seen["nvml"]["state"] == "ok" and has_cards(seen))


def test_what_came_and_went_between_two_windows_is_told_in_one() -> None:
    """A reset of a second must not pass unseen, nor be told for ever."""
    sampler = GpuSampler(0.5, lambda: 0)
    sampler._set({"state": "reset", "detail": "no driver"})
    sampler._set({"state": "ok", "detail": ""})
    assert sampler.window()["nvml"] == {"state": "reset", "detail": "no driver (answers again)"}
    assert sampler.window()["nvml"] == {"state": "ok", "detail": ""}


@pytest.mark.parametrize(
    ("count", "state", "detail"),
    [(1, "lost", "2 cards at first, 1 now"), (3, "changed", "2 cards at first, 3 now")],
)
def test_another_number_of_cards_is_told(
    look: Callable[..., Looker], count: int, state: str, detail: str
) -> None:
    """Fewer or more than at first; the cards that are there are told, and none is idle."""
    looker = look({"count": 2, "0.util": 0, "1.util": 0, "2.util": 0})
    looker.until(has_cards)
    looker.change(count=count)
    window = looker.until(lambda seen: seen["nvml"]["state"] == state)
    assert window["nvml"]["detail"] == detail
    window = looker.until(lambda seen: len(seen["cards"]) == count)
    assert gpu_percent(window) is None


def test_an_xid_is_told_once_and_with_its_card(look: Callable[..., Looker]) -> None:
    """79: the card has fallen off the bus, as NVIDIA's list of Xid errors has it."""
    looker = look({"count": 2})
    looker.change(_1_xid=79)
    window = looker.until(lambda seen: has_cards(seen) and bool(seen["cards"][1]["xids"]))
    assert [card["xids"] for card in window["cards"]] == [[], [79]]
    assert looker.until(has_cards)["cards"][1]["xids"] == []


@pytest.mark.parametrize("refuses", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"])
def test_xids_that_are_not_offered_are_unknown(look: Callable[..., Looker], refuses: str) -> None:
    """As in most containers: null, not an empty list."""
    assert look({refuses: 3}).until(has_cards)["cards"][0]["xids"] is None


def test_an_unknown_fault_gives_no_figures(look: Callable[..., Looker]) -> None:
    """What NVML cannot explain is an error, with its number, and tried again."""
    looker = look()
    looker.change(nvmlDeviceGetUtilizationRates=999)
    window = looker.until(lambda seen: seen["nvml"]["state"] == "error")
    assert window["cards"] == []
    assert "Unknown" in window["nvml"]["detail"] or "error" in window["nvml"]["detail"]
    looker.change(nvmlDeviceGetUtilizationRates=None)
    looker.until(lambda seen: seen["nvml"]["state"] == "ok" and has_cards(seen))


def test_a_driver_that_is_not_there_at_first_is_an_error_and_tried_again(
    look: Callable[..., Looker],
) -> None:
    """Instances are reached before their driver is loaded."""
    looker = look({"init": 9})
    assert looker.first["state"] == "error"
    looker.change(init=None)
    looker.until(lambda seen: seen["nvml"]["state"] == "ok" and has_cards(seen))


def test_a_window_holds_mean_and_maximum() -> None:
    """Over the samples of the window."""
    window = CardWindow()
    for util in (0, 100, 50):
        window.add({"index": 0, "state": "ok", "util": util, "power_w": 2.0 * util})
    card = window.summary()
    assert (card["util_mean"], card["util_max"], card["power_w"]) == (50.0, 100, 100.0)


def test_a_card_lost_in_mid_window_hands_out_no_old_figures() -> None:
    """What it last said was true then."""
    window = CardWindow()
    window.add({"index": 0, "state": "ok", "util": 0, "power_w": 30.0, "temp_c": 40})
    window.add({"index": 0, "state": "lost"})
    card = window.summary()
    assert (card["util_max"], card["power_w"], card["temp_c"]) == (None, None, None)


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
    sampler = GpuSampler(0.5, lambda: now[0])
    sampler._set({"state": "ok", "detail": ""})
    sampler._windows = {0: CardWindow({"index": 0, "state": "ok"}, [0])}
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
    assert cards.visible_pids(listed, share) == visible


def test_versions_are_readable() -> None:
    """NVML packs the CUDA version into one number."""
    assert gpu.cuda_version(12040) == "12.4"


def test_the_cards_in_a_real_agent(job: Job, library: Path, tmp_path: Path) -> None:
    """From the bundle, through the library, into the journal; and a loss on the way."""
    script = tmp_path / "script"
    script.write_text("count 2\n0.util 42\n")
    job.order({"steps": 10_000})
    job.start(env={**os.environ, "LD_LIBRARY_PATH": str(library), "NVML_SCRIPT": str(script)})
    reader = job.attach()
    reader.lease()
    hello = reader.wait_for("hello")
    assert (hello["nvml"]["state"], hello["nvml"]["cards"]) == ("ok", 2)
    window = reader.wait_for("gpu", nvml={"state": "ok", "detail": ""})
    assert [card["util_max"] for card in window["cards"]] == [42, 97]
    script.write_text("count 2\n1.nvmlDeviceGetUtilizationRates 15\n")
    wait_until(lambda: reader.of("gpu")[-1]["nvml"]["state"] == "lost", "the loss in the journal")
    assert reader.of("gpu")[-1]["cards"][1]["util_max"] is None
