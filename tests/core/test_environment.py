from __future__ import annotations

import pytest

from costguard.core.environment import environment_key, lacking, pins, why_pip_failed


def test_what_is_missing_or_too_old_is_named() -> None:
    """A version that nobody knows is taken for new enough; one that is not asked for, too."""
    found = {"torch": "2.6.0+cu124", "peft": "0.14.9", "accelerate": "", "trl": None}
    least = {"torch": "2.6", "peft": "0.15", "accelerate": "1.2"}
    assert lacking(found, ["torch", "trl", "never_looked_for"], least) == [
        "trl",
        "never_looked_for",
        "peft (has 0.14.9, needs 0.15 or newer)",
    ]
    assert lacking(found, ["torch", "peft"], {}) == []


def test_pip_is_held_to_the_torch_that_is_there() -> None:
    """To the letter, with the local part of its version; to nothing where there is none."""
    found = {"torch": "2.6.0+cu124", "torchvision": "0.21.0+cu124", "torchaudio": None, "peft": "1"}
    assert pins(found) == ["torch==2.6.0+cu124", "torchvision==0.21.0+cu124"]
    assert pins({"torch": ""}) == []


def test_an_environment_is_named_after_what_it_holds() -> None:
    """The same wishes in another order are the same; another Python or torch is another."""
    usual = environment_key("/usr/bin/python3", "3.11.7", ["torch==2.6"], ["peft", "trl"])
    assert len(usual) == 16
    assert usual == environment_key(
        "/usr/bin/python3", "3.11.7", ["torch==2.6"], ["trl", "peft", "trl"]
    )
    others = {
        environment_key("/opt/python3", "3.11.7", ["torch==2.6"], ["peft", "trl"]),
        environment_key("/usr/bin/python3", "3.12.1", ["torch==2.6"], ["peft", "trl"]),
        environment_key("/usr/bin/python3", "3.11.7", ["torch==2.7"], ["peft", "trl"]),
        environment_key("/usr/bin/python3", "3.11.7", ["torch==2.6", "peft"], ["trl"]),
        environment_key("/usr/bin/python3", "3.11.7", ["torch==2.6"], ["peft"]),
    }
    assert len(others | {usual}) == 6


CONFLICT = """Collecting a
ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.

The conflict is caused by:
    a 1 depends on torch>=99
    The user requested (constraint) torch==2.6.0

To fix this you could try to:
1. loosen the range of package versions you have specified
ERROR: ResolutionImpossible: for help visit the documentation
"""


EXPLAINED = (
    "Cannot install a==1 and b==2 because these package versions have conflicting dependencies.; "
    "a 1 depends on torch>=99; The user requested (constraint) torch==2.6.0"
)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (CONFLICT, EXPLAINED),
        ("Collecting a\nERROR: No matching distribution\n", "No matching distribution"),
        ("one\n\n two \nthree\n", "two; three"),
        ("\n", "pip said nothing"),
    ],
)
def test_why_pip_failed_is_one_sentence(log: str, said: str) -> None:
    """Its errors with what conflicts, and not where to read about it."""
    assert why_pip_failed(log.splitlines()) == said
