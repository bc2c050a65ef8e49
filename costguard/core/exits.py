"""How a training process ended, in words and in kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.core.snapshot import Exit

UNTOLD = "nothing is left of it"
EXIT_SAVED_ON_REQUEST = 75
EXIT_DIVERGED = 70
STOP_SIGNALS = (15, 9)  # SIGTERM, and SIGKILL when the grace is over
STOP_CODES = (143, 137)  # the same as a shell tells them

EXIT_MEANINGS: Mapping[int, str] = {
    2: "the training command was called wrongly",
    65: "the data set was refused",
    70: "the loss was no longer a number, or diverged",
    75: "saved on request",
    76: "a checkpoint could not be saved",
}

# The first that fits; words are looked for in the last lines of the log, in small letters.
EXIT_CLASSES: tuple[tuple[str, frozenset[int], tuple[str, ...]], ...] = (
    ("diverged", frozenset({70}), ()),
    ("saved", frozenset({75}), ()),
    ("out_of_memory", frozenset(), ("out of memory", "outofmemoryerror")),
    ("disk_full", frozenset(), ("no space left on device", "disk quota exceeded")),
    ("data", frozenset({65}), ("jsondecodeerror", "dataset_info", "undefined dataset")),
    (
        "environment",
        frozenset({2, 126, 127}),
        (
            *("modulenotfounderror", "importerror", "no module named", "cuda driver"),
            *("no kernel image", "command not found", "no cuda gpus are available"),
        ),
    ),
    ("save", frozenset({76}), ()),
)


def exit_class(end: Exit) -> str:
    """What kind of end it was: whether the same again, with less, or not at all, may help."""
    if end.code == 0:
        return "finished"
    text = "\n".join(end.log_tail).lower()
    for kind, codes, words in EXIT_CLASSES:
        if end.code in codes or any(word in text for word in words):
            return kind
    return "crash"


def ended_on_request(end: Exit) -> bool:
    """Whether it did no more than what a stop had asked of it, having saved or not.

    A trainer that knows nothing of SIGTERM, as LLaMA-Factory, dies of it.
    """
    died = end.signal in STOP_SIGNALS or end.code in STOP_CODES
    return end.code == EXIT_SAVED_ON_REQUEST or (end.asked and died)


def exit_text(end: Exit) -> str:
    """How the process ended, in words."""
    if end.signal is not None:
        return f"training was killed by signal {end.signal}"
    if any("out of memory" in line.lower() for line in end.log_tail):
        return f"training ran out of memory (exit code {end.code})"
    if end.code is None:
        return f"how the training ended was not seen: {end.detail or UNTOLD}"
    meaning = EXIT_MEANINGS.get(end.code)
    return f"training ended with exit code {end.code}" + (f": {meaning}" if meaning else "")
