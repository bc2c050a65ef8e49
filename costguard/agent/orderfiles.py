"""The files that an order has written before its training starts, and what it is to go on from.

LLaMA-Factory is told in a YAML of its own. Left to itself it would take the newest checkpoint,
whole or torn, or refuse a folder that is not empty; so the newest whole one is named, torn ones
are set aside, where its rotation does not count them, and `overwrite_output_dir` is never said.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.agent import foreign

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.agent.spec import Spec

CONFIG_FILE = "llamafactory.yaml"
ENGINE = "llamafactory"
CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
TORN = "torn-"


def write_files(spec: Spec) -> str | None:
    """Writes them in the current directory; returns the checkpoint to go on from, if any.

    Called just before the training starts, when nobody else writes here. Raises OSError.
    """
    for name, text in spec.files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if spec.engine != ENGINE:
        return None
    output = Path(spec.output_dir)
    newest = newest_whole(output)
    config = dict(spec.config)
    if newest is not None:
        config["resume_from_checkpoint"] = (output / newest).as_posix()
    Path(CONFIG_FILE).write_text(as_yaml(config), encoding="utf-8")
    return newest


def newest_whole(output: Path) -> str | None:
    """The newest checkpoint that can be resumed from; newer ones are renamed to `torn-…`."""
    found = [path for path in output.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    for path in sorted(found, key=lambda path: _step(path.name), reverse=True):
        try:
            foreign.check(path, _step(path.name))
        except (foreign.TornError, OSError):
            path.rename(_free(path.with_name(f"{TORN}{path.name}")))
        else:
            return path.name
    return None


def as_yaml(config: Mapping[str, bool | int | float | str]) -> str:
    """The scalars as YAML 1.1 and 1.2 both read them: texts quoted, fractions with a point."""
    return "".join(f"{key}: {_scalar(value)}\n" for key, value in config.items())


def _scalar(value: bool | float | str) -> str:  # noqa: FBT001  one of four kinds of scalar
    if isinstance(value, float) and math.isfinite(value):
        mantissa, e, exponent = repr(value).partition("e")
        point = mantissa if "." in mantissa else f"{mantissa}.0"
        return f"{point}{e}{exponent}"  # YAML 1.1 takes 1e-05, without a point, for a text
    return json.dumps(value)


def _step(name: str) -> int:
    return int(name.rpartition("-")[2])


def _free(path: Path) -> Path:
    """The path, or the first with a number behind it where something bears the name."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
