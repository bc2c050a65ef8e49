"""The words by which what a document calls by a key is shown to a person."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trainer
from costguard.cli.words import phase_word
from costguard.lang import select

TOLD = re.compile(r'phase="(\w+)"|"phase": "(\w+)"|SAVED_ON_REQUEST: "(\w+)"')


@pytest.fixture
def chinese() -> object:
    """What is said is said in Chinese, until the test is over."""
    select("zh")
    yield None
    select("en")


@pytest.mark.usefixtures("chinese")
def test_every_phase_that_our_trainer_tells_has_a_word() -> None:
    """Found by reading its source; those of other trainers are shown as they are."""
    sources = Path(trainer.__file__).parent.glob("*.py")
    told = {
        phase
        for source in sources
        for found in TOLD.findall(source.read_text(encoding="utf-8"))
        for phase in found
        if phase
    }
    assert {"train", "stopped", "failed", "compile"} <= told
    assert [phase for phase in sorted(told) if phase_word(phase) == phase] == []
    assert phase_word("warmup") == "warmup"
