"""What the trainer says to a person, read off its source: what has to have a Chinese text.

Every literal of every module that reads like a sentence counts, but for the few that are none; the
single words that a person sees are named here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import trainer
from tests.daemon_texts import sentences_of

ROOT = Path(trainer.__file__).parent
# Of each its reason: patterns and templates that are matched or filled in and never said.
NOT = re.compile(
    r"\(\?|<\|im_end|\{%- if"  # regular expressions, the chat template
    r"|python -m trainer (\w|-)+$"  # a command to type
    r"|blob |/held out/|\{\}/held out/"  # what is hashed
    r"|You are Qwen|How do I return|You can return"  # what a model is told and asked
    r"|status\.json has no|no shape for|count\(\) does not end|an answer must be text"  # of ours
    r"|a sample must begin|the output layer is trained"
    r"|  \{\}\{\}\{\}$|training loss$"  # in a picture, whose fonts have no Chinese
)
# Its peers side by side: a measuring tool of whoever works on the trainer, whose table is figures.
NOT_MODULES = re.compile(r"bench/")
WORDS = {
    *("question", "answer", "base", "tuned", "right", "wrong", "lacks: {}", "must not say: {}"),
    *(
        "forgotten",
        "stopped",
        "interrupted",
        "step",
        "done: {}",
        "weights",
        "attention",
        "{} attention",
    ),
    *("original", "dequantized"),
    *("all", "inputs", "yes", "no", "about {}", "usage: ", ": ", ", "),
    *("phone", "landline", "id_card", "bank_card", "email", "plate", "account", "name", "address"),
    *("particles", "emoji", "it may be GBK"),
    *("line {}", "  line {}", "{} samples: {}", "the keys are {}"),
    # What argparse says of a mistyped command line, in the versions that were looked at.
    *("options", "positional arguments", "show this help message and exit", "argument {}: {}"),
    *("how", "interview", "steps", "expected one argument", "expected at least one argument"),
    "invalid {} value: {}",
    *("the following arguments are required: {}", "unrecognized arguments: {}"),
    *("invalid choice: {} (choose from {})", "unknown flag {}", "did you mean {}?"),
    # And the system of a file.
    *("No such file or directory", "Permission denied", "Is a directory", "Not a directory"),
    *("No space left on device", "File exists", "Read-only file system"),
}


def trainer_sentences() -> dict[str, str]:
    """Each sentence with `{}` for its blanks, and the module that says it ('' where many do)."""
    found = dict.fromkeys(sorted(WORDS), "")
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if NOT_MODULES.match(name):
            continue
        for text, _line in sentences_of(ast.parse(path.read_text(encoding="utf-8"))):
            if not NOT.match(text):
                found.setdefault(text, f"trainer/{name}")
    return found
