"""The house rules that a machine can check: arrows, floats, clocks, sizes, leftovers."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("costguard/**/*.py"), *ROOT.glob("trainer/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))

# Which rooms of costguard a room may import. Arrows run one way; core imports nothing of ours.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "agent": {"core"},
    "localcloud": set(),
    "errors": set(),
    "lang": {"core", "errors", "settings", "tomlfile", "paths"},
    "store": {"core", "errors"},
    "providers": {"core", "errors"},
    "remote": {"agent", "core", "errors"},
    "report": {"core", "errors", "lang", "paths", "settings", "store"},
    "daemon": {
        "core",
        "errors",
        "lang",
        "localcloud",
        "paths",
        "providers",
        "remote",
        "report",
        "settings",
        "store",
    },
}
MONEY = ("core/money.py", "core/tariff.py", "core/lease.py", "core/meter.py", "store/ledger.py")
CLOCK_CALLS = {("time", "time"), ("time", "time_ns"), ("time", "monotonic"), ("datetime", "now")}
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
POWER_OFF = re.compile(r"""["'/](shutdown|poweroff|reboot|halt)["']""")
LEFTOVERS = re.compile(r"\b(TO" + "DO|FIX" + r"ME)\b")


def tree_of(path: Path) -> ast.Module:
    """The module, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    """The path below the repository's root, for messages."""
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """The folder of costguard that a module is in, or the module's own name at the top."""
    parts = path.relative_to(ROOT / "costguard").parts
    return parts[0].removesuffix(".py")


def imports_of(tree: ast.Module) -> list[str]:
    """Every absolute module name that is imported, anywhere in the module."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def rooms_imported(path: Path) -> set[str]:
    """The rooms of costguard that a module imports from."""
    found = set()
    for name in imports_of(tree_of(path)):
        parts = name.split(".")
        if parts[0] == "costguard" and len(parts) > 1:
            found.add(parts[1])
    inside = {p.name.removesuffix(".py") for p in (ROOT / "costguard").iterdir()}
    return found & inside


@pytest.mark.parametrize("path", [p for p in SOURCES if "costguard" in p.parts], ids=name_of)
def test_arrows_run_one_way(path: Path) -> None:
    """A module imports only the rooms that its room may know."""
    room = room_of(path)
    if room in ARROWS:
        strangers = rooms_imported(path) - ARROWS[room] - {room}
        assert not strangers, f"{room} must not import {strangers}"


def test_only_the_embedded_default_knows_the_local_platform() -> None:
    """In the daemon, the platform on this machine is started in one module alone."""
    knowing = [
        name_of(path)
        for path in (ROOT / "costguard" / "daemon").glob("*.py")
        if "localcloud" in rooms_imported(path)
    ]
    assert knowing == ["costguard/daemon/embedded.py"]


@pytest.mark.parametrize("path", sorted((ROOT / "costguard/core").glob("*.py")), ids=name_of)
def test_core_imports_the_standard_library_alone(path: Path) -> None:
    """Pure decisions need nothing but Python."""
    others = {name.split(".")[0] for name in imports_of(tree_of(path))} - {"costguard"}
    assert others <= sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted((ROOT / "costguard/core").glob("*.py")), ids=name_of)
def test_core_reads_no_clock_and_draws_no_lots(path: Path) -> None:
    """Time comes in as a Moment; chance does not come in at all."""
    tree = tree_of(path)
    assert "random" not in {name.split(".")[0] for name in imports_of(tree)}
    assert not clock_calls(tree)


def clock_calls(tree: ast.Module) -> list[int]:
    """Lines that read a clock."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in CLOCK_CALLS
    ]


def test_the_daemon_reads_clocks_in_one_module() -> None:
    """Every other module of the daemon is given the time."""
    reading = [
        name_of(path)
        for path in (ROOT / "costguard" / "daemon").glob("*.py")
        if clock_calls(tree_of(path))
    ]
    assert reading == ["costguard/daemon/clock.py"]


@pytest.mark.parametrize("name", MONEY)
def test_no_float_touches_money(name: str) -> None:
    """Money modules hold no float literal, no float() and no true division of integers."""
    for node in ast.walk(tree_of(ROOT / "costguard" / name)):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        assert not (isinstance(node, ast.Name) and node.id == "float")
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))


def test_the_trainer_and_costguard_do_not_import_each_other() -> None:
    """A subprocess and files are the border; the demo's fault is uploaded, not imported."""
    for path in SOURCES:
        tops = {name.split(".")[0] for name in imports_of(tree_of(path))}
        if "trainer" in path.relative_to(ROOT).parts[0]:
            assert "costguard" not in tops, name_of(path)
        elif path.name != "hanging_training.py":
            assert "trainer" not in tops, name_of(path)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_modules_and_functions_stay_small(path: Path) -> None:
    """What a person can hold in their head."""
    assert path.read_text(encoding="utf-8").count("\n") <= MODULE_LINES_MAX
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} is {length} lines"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_nothing_is_left_unfinished_or_swallowed(path: Path) -> None:
    """No leftovers, no error that vanishes, no host key taken on trust."""
    text = path.read_text(encoding="utf-8")
    assert not LEFTOVERS.search(text)
    assert not re.search(r"set_missing_host_key_policy\(.*(AutoAdd|Warning)Policy", text)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler) and isinstance(node.body[0], ast.Pass):
            caught = ast.unparse(node.type) if node.type is not None else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_power_off_command_of_the_machine_is_ever_named(path: Path) -> None:
    """Only the local platform's shadow scripts bear such names, and they call the platform."""
    if room_of_any(path) != "localcloud":
        assert not POWER_OFF.search(path.read_text(encoding="utf-8"))


def room_of_any(path: Path) -> str:
    """The room, or `trainer`."""
    return room_of(path) if path.relative_to(ROOT).parts[0] == "costguard" else "trainer"
