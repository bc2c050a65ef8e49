from __future__ import annotations

from costguard.remote.bundle import build_agent
from costguard.remote.slim import names_used, slim

MODULE = """\
# Copyright: somebody
import os

USED = 1
UNUSED = 2
NVML_ERROR_ODD = 3


def wrap(function):
    return function


@wrap
def nvmlAsked():
    # a comment of its own
    return helper(USED)


def helper(value):
    return Thing


class Thing:
    pass


def nvmlNot():
    return UNUSED


nvmlNot2 = nvmlNot
if os.name == "odd":
    nvmlAsked = None
"""


def test_what_is_needed_stays_as_it_was_written() -> None:
    """Functions with their decorators, helpers, constants, conditions, and the licence."""
    kept = slim(MODULE, {"nvmlAsked"})
    assert kept.startswith("# Copyright: somebody\nimport os\n")
    for part in ("@wrap\ndef nvmlAsked", "# a comment", "helper(value)", "class Thing", "USED = 1"):
        assert part in kept
    assert 'if os.name == "odd":' in kept
    assert "NVML_ERROR_ODD = 3" in kept
    assert "UNUSED" not in kept
    assert "nvmlNot" not in kept


def test_what_the_agent_asks_is_found_in_its_sources() -> None:
    """However the module is called there."""
    source = "x = self._nvml.nvmlInit()\ny = nvml.NVML_CLOCK_SM\nz = nvml.other"
    assert names_used([source]) == {"nvmlInit", "NVML_CLOCK_SM"}


def test_the_bundle_is_small() -> None:
    """The whole of pynvml alone is three times as large."""
    assert len(build_agent()) < 165_000
