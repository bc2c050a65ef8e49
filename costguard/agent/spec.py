"""The order that the daemon uploads as `spec.json`: what to run, and how to stop it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from costguard.agent.patterns import PatternError, compile_pattern
from costguard.core.spec import GuardLimits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SPEC_NAME = "spec.json"

PYTHON = "{python}"
"""Stands in `argv` for the interpreter that has every module of `needs`."""

LONGEST_S = 366 * 24 * 3600.0
CONFIG_SCALARS = (bool, int, float, str)


class SpecError(ValueError):
    """The order cannot be carried out as written; the text says which field and why."""


@dataclass(frozen=True)
class Install:
    """Whether what is missing may be installed, where to, and what pip is asked for.

    `root`: where environments of ours stand, relative to the job's directory. `requirements` are
    pip's, for what the engine needs; `packages` what the user names, wanted in any case.
    """

    allowed: bool
    root: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    index: str | None
    within_s: float


@dataclass(frozen=True)
class Spec:
    """One attempt at a training. A further attempt is a new order with a new `run_id`.

    `least`: the least version of modules in `needs`. `python`: the one to take, if it has them.
    `config`: what an engine is told in a file, rather than by flags. `caches`: a folder for
    what is fetched, relative to the job's directory.
    """

    run_id: str
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    output_dir: str
    in_guest_stop: tuple[str, ...] | None
    needs: tuple[str, ...]
    least: Mapping[str, str]
    python: str | None
    install: Install | None
    config: Mapping[str, bool | int | float | str]
    files: Mapping[str, str]
    caches: str | None
    save_grace_s: float
    first_lease_s: float
    restart_s: float
    expects_adapter: bool
    engine: str
    progress_pattern: str | None
    guards: GuardLimits
    sample_s: float
    window_s: float
    heartbeat_s: float


def load_spec(path: Path) -> Spec:
    """The order in `path`; raises SpecError with the field that is wrong."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"{path.name} is not there: upload it before the start") from error
    except (OSError, ValueError) as error:
        raise SpecError(f"{path.name} cannot be read as JSON: {error}") from error
    return parse_spec(raw)


def parse_spec(raw: Any) -> Spec:
    """The order in `raw`, checked; raises SpecError with the field that is wrong."""
    if not isinstance(raw, dict):
        raise SpecError("the order is not a JSON object")
    telemetry = raw.get("telemetry", {})
    if not isinstance(telemetry, dict):
        raise SpecError("telemetry is not a JSON object")
    stop = raw.get("in_guest_stop")
    return Spec(
        run_id=_text(raw, "run_id"),
        argv=_texts(raw, "argv", at_least=1),
        cwd=_text(raw, "cwd", "."),
        env=_environment(raw.get("env", {})),
        output_dir=_text(raw, "output_dir", "output"),
        in_guest_stop=None if stop is None else _texts(raw, "in_guest_stop", at_least=1),
        needs=_module_names(raw),
        least=_texts_by_name(raw, "least"),
        python=None if raw.get("python") is None else _text(raw, "python"),
        install=_install(raw.get("install")),
        config=_config(raw.get("config", {})),
        files=_files(raw),
        caches=None if raw.get("caches") is None else _text(raw, "caches"),
        save_grace_s=_seconds(raw, "save_grace_s", 30.0, least=0.0),
        first_lease_s=_seconds(raw, "first_lease_s", 120.0, least=0.0),
        restart_s=_seconds(raw, "restart_s", 5.0, least=0.0),
        engine=_text(raw, "engine", "trainer"),
        progress_pattern=_pattern(raw.get("progress_pattern")),
        expects_adapter=_yes_or_no(raw, "expects_adapter"),
        guards=_guards(raw.get("guards", {})),
        sample_s=_seconds(telemetry, "sample_s", 1.0, least=0.05),
        window_s=_seconds(telemetry, "window_s", 5.0, least=0.1),
        heartbeat_s=_seconds(telemetry, "heartbeat_s", 1.0, least=0.05),
    )


def _text(raw: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str) or not value or "\0" in value:
        raise SpecError(f"{key} must be a text that is not empty, not {value!r}")
    return value


def _texts(raw: Mapping[str, Any], key: str, at_least: int = 0) -> tuple[str, ...]:
    value = raw.get(key, [])
    if not isinstance(value, list) or len(value) < at_least:
        raise SpecError(f"{key} must be a list of at least {at_least} texts, not {value!r}")
    if not all(isinstance(item, str) and "\0" not in item for item in value):
        raise SpecError(f"{key} must hold texts only, not {value!r}")
    return tuple(value)


def _module_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    names = _texts(raw, "needs")
    for name in names:
        if not name.isidentifier():
            raise SpecError(f"needs holds {name!r}, which is no top-level module name")
    return names


def _texts_by_name(raw: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = raw.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise SpecError(f"{key} must hold texts by name, not {value!r}")
    return dict(value)


def _files(raw: Mapping[str, Any]) -> Mapping[str, str]:
    files = _texts_by_name(raw, "files")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise SpecError(f"files holds {name!r}, which is no path inside the job's folder")
    return files


def _config(value: Any) -> Mapping[str, bool | int | float | str]:
    if not isinstance(value, dict):
        raise SpecError("config is not a JSON object")
    for key, scalar in value.items():
        if not isinstance(scalar, CONFIG_SCALARS) or not key.isidentifier():
            raise SpecError(f"config[{key!r}] cannot be {scalar!r}")
    return dict(value)


def _install(value: Any) -> Install | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise SpecError("install is not a JSON object")
    return Install(
        allowed=_yes_or_no(value, "allowed"),
        root=_text(value, "root"),
        requirements=_requirements(value, "requirements"),
        packages=_requirements(value, "packages"),
        index=None if value.get("index") is None else _text(value, "index"),
        within_s=_seconds(value, "within_s", 900.0, least=0.0),
    )


def _requirements(raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = _texts(raw, key)
    for text in texts:
        if not text or text.startswith("-"):
            raise SpecError(f"{key} holds {text!r}, which would be an option of pip's")
    return texts


def _environment(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise SpecError("env is not a JSON object")
    for key, text in value.items():
        if not isinstance(text, str) or "\0" in text or not key or "=" in key or "\0" in key:
            raise SpecError(f"env[{key!r}] must be a text, not {text!r}")
    return dict(value)


def _pattern(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise SpecError(f"progress_pattern must be a text, not {value!r}")
    try:
        compile_pattern(value)
    except PatternError as error:
        raise SpecError(f"progress_pattern {value!r}: {error}") from error
    return value


def _yes_or_no(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise SpecError(f"{key} must be true or false, not {value!r}")
    return value


def _guards(value: Any) -> GuardLimits:
    """The limits by which the agent judges when it is alone; what is not said has its default."""
    if not isinstance(value, dict):
        raise SpecError("guards is not a JSON object")
    known = {field.name: field.default for field in fields(GuardLimits)}
    given = {key: limit for key, limit in value.items() if key in known}
    for key, limit in given.items():
        if isinstance(known[key], str):
            valid = isinstance(limit, str)
        elif limit is None:
            valid = known[key] is None
        else:
            valid = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0
        if not valid:
            raise SpecError(f"guards[{key!r}] cannot be {limit!r}")
    return GuardLimits(**given)


def _seconds(raw: Mapping[str, Any], key: str, default: float, least: float) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecError(f"{key} must be a number of seconds, not {value!r}")
    if not least <= value <= LONGEST_S:
        raise SpecError(f"{key} must lie between {least} and {LONGEST_S:.0f}, not {value!r}")
    return float(value)
