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
TEXTS = sorted(
    path
    for pattern in ("*.md", "*.toml", "Makefile", ".ci/*", "deploy/*", "migrations/**/*.py")
    for path in ROOT.glob(pattern)
)

# Which rooms of costguard a room may import. Arrows run one way; core imports nothing of ours.
# What only the whole program shares (errors, words, paths) stands at the right, as few as can be.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "agent": {"core"},
    "localcloud": set(),
    "store": {"core", "errors"},
    "providers": {"core", "errors"},
    "remote": set(),
    "report": {"core", "errors", "paths", "settings", "store"},
    "notify": {"core", "errors", "lang", "retell", "settings", "store"},
    "daemon": {"core", "localcloud", "notify", "providers", "remote", "report", "store"}
    | {"errors", "paths", "sdnotify", "settings"},
    "cli": {
        "core",
        "daemon",
        "demo",
        "engines",
        "jobfile",
        "notify",
        "preflight",
        "remote",
        "report",
        "sim",
        "store",
    }
    | {"errors", "lang", "paths", "retell", "settings"},
    "demo": {"cli", "core", "jobfile", "localcloud", "store", "errors", "lang", "retell"},
    "sim": {"agent", "core", "daemon", "errors", "providers", "remote", "store"},
    "engines": {"core", "lang", "llamafactory", "preflight", "tomlfile"},
    "llamafactory": {"core", "lang", "tomlfile"},
    "jobfile": {"core", "engines", "errors", "lang", "settings", "tomlfile"},
    "preflight": {"errors", "lang", "retell", "tomlfile"},
    "sdnotify": set(),
    "settings": {"core", "errors", "lang", "paths", "tomlfile"},
    "tomlfile": {"errors", "lang"},
    "paths": {"errors", "lang"},
    "lang": {"paths", "tomlfile"},
    "retell": {"lang"},
    "errors": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
# What the agent may need on an instance, where nothing of ours is installed.
AGENT_ALSO = {"pynvml"}
MONEY = (
    "core/money.py",
    "core/tariff.py",
    "core/lease.py",
    "core/meter.py",
    "store/ledger.py",
    "store/sums.py",
)
CLOCKS = re.compile(r"^(now|utcnow|today|(time|monotonic|perf_counter|clock_gettime)(_ns)?)$")
CHANCE = {"random", "secrets", "uuid"}
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
POWER_OFF = {"shutdown", "poweroff", "reboot", "halt", "telinit"}
GUEST_SHADOWS = "costguard/localcloud/guest.py"
# Words of rental platforms' own APIs, a state or a path: sent and received, never started.
PLATFORM_WORDS = {
    "costguard/providers/autodl.py": {"shutdown"},
    "costguard/providers/chenyu.py": {"/instance/shutdown"},
    "costguard/providers/xiangongyun.py": {"shutdown"},
}
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
    strangers = rooms_imported(path) - ARROWS[room] - {room}
    assert not strangers, f"{room} must not import {strangers}"


def test_the_map_names_no_arrow_that_is_not_used() -> None:
    """A map that allows more than there is would let it come unseen."""
    used: dict[str, set[str]] = {room: set() for room in ARROWS}
    for path in ROOT.glob("costguard/**/*.py"):
        used[room_of(path)] |= rooms_imported(path) - {room_of(path)}
    assert {room: ARROWS[room] - used[room] for room in ARROWS if ARROWS[room] - used[room]} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "costguard/agent").glob("**/*.py")), ids=name_of)
def test_the_agent_needs_nothing_that_an_instance_has_not(path: Path) -> None:
    """The standard library, pynvml where there is a GPU, and the core that travels with it."""
    tops = {name.split(".")[0] for name in imports_of(tree_of(path))} - {"costguard"}
    assert tops <= sys.stdlib_module_names | AGENT_ALSO


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
    assert not CHANCE & {name.split(".")[0] for name in imports_of(tree)}
    assert "time" not in imports_of(tree)
    assert not clock_calls(tree)


def clock_calls(tree: ast.Module) -> list[int]:
    """Lines that read a clock."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("time", "datetime", "date")
        and CLOCKS.match(node.func.attr)
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "costguard/daemon").glob("*.py")), ids=name_of)
def test_the_daemon_reads_clocks_in_one_module(path: Path) -> None:
    """Every other module of the daemon is given the time."""
    assert bool(clock_calls(tree_of(path))) is (path.name == "clock.py")


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
    tree = tree_of(path)
    words = PLATFORM_WORDS.get(name_of(path), set())
    if name_of(path) != GUEST_SHADOWS:
        named = [text for text in literals(tree) if commands_in(text) & POWER_OFF]
        assert set(named) == words
    if words:
        assert not {"os", "subprocess", "paramiko"} & set(imports_of(tree))
    assert not [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in POWER_OFF - {"shutdown"}
    ]


def test_the_rule_about_power_off_would_find_one() -> None:
    """However it is written; words in a sentence are no command."""
    for found in ("shutdown", "/sbin/poweroff -f", "sudo reboot", "sync; exec halt", "a && reboot"):
        assert commands_in(found) & POWER_OFF, found
    assert not commands_in("after a reboot of this machine") & POWER_OFF


def literals(tree: ast.Module) -> list[str]:
    """Every text in the code that is not a docstring."""
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def commands_in(text: str) -> set[str]:
    """The programs that a shell would start for this text."""
    found = set()
    for part in re.split(r"[;&|\n(`]+", text):
        words = [word for word in part.split() if word not in ("sudo", "exec", "env", "nohup")]
        if words:
            found.add(words[0].strip("'\"").rpartition("/")[2])
    return found


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *TEXTS], ids=name_of)
def test_nothing_of_the_machine_it_was_written_on_is_named(path: Path) -> None:
    """No private path, no package registry: it must read the same anywhere."""
    text = path.read_text(encoding="utf-8")
    private = r"/work" + r"/(main|tmp|shared|venv|\.)|/home" + r"/\w|/User" + r"s/\w"
    registry = r"\bpypi\." + r"\w|python" + r"hosted|artifact" + r"ory|simple/?\s+--"
    assert not re.search(f"{private}|{registry}", text)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_no_address_but_loopback_is_written_down(path: Path) -> None:
    """Addresses kept for examples (RFC 5737) are what tests may name as unreachable."""
    for text in literals(tree_of(path)):
        for address in re.findall(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])", text):
            assert address.startswith(("127.", "192.0.2.", "198.51.100.", "203.0.113.")), address


def test_both_ways_around_a_host_key_are_refused() -> None:
    """Paramiko's policies that trust an unknown key are not even imported."""
    policies = {"AutoAdd" + "Policy", "Warning" + "Policy"}
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            assert name not in policies, name_of(path)
        assert not policies & {name.rpartition(".")[2] for name in imports_of(tree_of(path))}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_broad_error_is_suppressed(path: Path) -> None:
    """`suppress(Exception)` is `except Exception: pass` in a better suit."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            broad = {"Exception", "BaseException"} & {ast.unparse(arg) for arg in node.args}
            assert not broad, node.lineno
