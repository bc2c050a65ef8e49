"""Read a TOML file that a person wrote, and say in one message what is wrong with it and where.

Fractions are read as Decimal: money passes through here.
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from costguard.errors import UserError
from costguard.lang import _

if sys.version_info >= (3, 11):
    import tomllib
    from tomllib import TOMLDecodeError
else:
    import tomli as tomllib
    from tomli import TOMLDecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    Model = TypeVar("Model", bound=BaseModel)

__all__ = ["TOMLDecodeError", "TomlFile", "loads", "nearest", "read_toml", "validated"]

Place = tuple[int | str, ...]

_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)")
_HEADER = re.compile(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*["']?([^"'=\[\]#]+?)["']?\s*=""")


def loads(text: str) -> dict[str, Any]:
    """The document in `text`, its fractions as Decimal."""
    data: dict[str, Any] = tomllib.loads(text, parse_float=Decimal)
    return data


@dataclass(frozen=True)
class TomlFile:
    """One file as it was read: its data, and its text, from which lines are found for messages."""

    path: Path
    text: str
    data: dict[str, Any]

    def error(self, code: str, what: str, place: Place = (), hint: str = "") -> UserError:
        """A UserError about the key at `place`, such as `("instance", "gpu")`."""
        where = f"{self.path}"
        line = self.line_of(place)
        if line is not None:
            where += ", " + _("line {line}").format(line=line)
        if place:
            where += ", " + self._place_text(place)
        return UserError(code, what, where, hint)

    def line_of(self, place: Place) -> int | None:
        """The line that a key or its table stands on; None where it is not spelled out there."""
        names = [str(part) for part in place if isinstance(part, str)]
        index = next((part for part in place if isinstance(part, int)), 0)
        for size in range(len(names), 0, -1):
            line = self._find(".".join(names[: size - 1]), names[size - 1], index)
            line = line or self._find_header(".".join(names[:size]), index)
            if line is not None:
                return line
        return None

    def _find(self, table: str, key: str, index: int) -> int | None:
        current, tables_met = "", 0 if table else 1
        for number, line in self._numbered():
            header = _HEADER.match(line)
            if header:
                current = _plain(header[1])
                tables_met += current == table
                continue
            match = _KEY.match(line)
            here = current == table and tables_met == index + 1
            if match and here and _plain(match[1]) == key:
                return number
        return None

    def _find_header(self, table: str, index: int) -> int | None:
        matches = ((number, _HEADER.match(line)) for number, line in self._numbered())
        found = [number for number, match in matches if match and _plain(match[1]) == table]
        return found[index] if index < len(found) else None

    def _place_text(self, place: Place) -> str:
        """A key or table as a person finds it: `lang`, [job], [job] name, [[stages]] (2) start."""
        names = [str(part) for part in place if isinstance(part, str)]
        index = next((part for part in place if isinstance(part, int)), None)
        is_table = isinstance(place[-1], int) or _is_table(self._value(names))
        tables, key = (names, "") if is_table else (names[:-1], names[-1])
        if not tables:
            return f"`{key}`"
        table = ".".join(tables)
        header = f"[{table}]" if index is None else f"[[{table}]] ({index + 1})"
        return f"{header} {key}".rstrip()

    def _value(self, names: list[str]) -> object:
        value: object = self.data
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _numbered(self) -> Iterable[tuple[int, str]]:
        return enumerate(self.text.splitlines(), start=1)


def read_toml(path: Path, code: str) -> TomlFile:
    """The file at `path`; UserError with `code` when it cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # a BOM is what some Windows editors leave
        return TomlFile(path, text, loads(text))
    except OSError as error:
        raise UserError(
            code,
            _("this file cannot be read: {why}").format(why=error.strerror or error),
            str(path),
            _("check the path"),
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            code, _("this file is not UTF-8 text"), str(path), _("save it as UTF-8")
        ) from error
    except TOMLDecodeError as error:
        what, line = str(error), _AT_LINE.search(str(error))
        where = str(path)
        if line:
            what = _AT_LINE.sub("", what)
            where += ", " + _("line {line}").format(line=line[1])
        raise UserError(
            code,
            _("this is not TOML: {why}").format(why=what),
            where,
            _('text goes in quotes: name = "kefu"; a table starts with [name]'),
        ) from error


def nearest(word: str, known: Iterable[str], closeness: float = 0.6) -> str | None:
    """The known word that `word` was most likely meant to be, if any is close (1 is the same)."""
    found = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=closeness)
    return found[0] if found else None


def validated(model: type[Model], file: TomlFile, data: dict[str, Any], code: str) -> Model:
    """`data` as a `model`; otherwise one UserError about the first thing that is wrong."""
    from pydantic import ValidationError  # noqa: PLC0415  (`status` reads TOML without it)

    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_error(error, model, file, code) from None


def _first_error(
    error: ValidationError, model: type[BaseModel], file: TomlFile, code: str
) -> UserError:
    details = error.errors(include_url=False)
    # An unknown key is named before the missing one that it was probably meant to be.
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    place = tuple(part for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        what = _("unknown key `{key}`").format(key=place[-1])
        return file.error(code, what, place, _hint_for_unknown(model, place))
    if first["type"] == "missing":
        what = _("`{key}` is missing").format(key=place[-1])
        return file.error(code, what, place, _("add it"))
    return file.error(code, _complaint(first), place, _hint_for_value(first))


def _complaint(item: ErrorDetails) -> str:
    """What is wrong with one value, in our own words where pydantic's would be about types."""
    context = item.get("ctx", {})
    if item["type"] == "value_error":
        return str(context["error"])
    if item["type"] == "literal_error":
        shown = _shown(item["input"])
        return _("{value} is none of {expected}").format(value=shown, expected=context["expected"])
    wanted = {
        "int_type": _("a whole number"),
        "string_type": _("text in quotes"),
        "bool_type": _("true or false"),
        "list_type": _("a list, such as [1, 2]"),
        "tuple_type": _("a list, such as [1, 2]"),
        "dict_type": _("a table"),
        "model_type": _("a table"),
        "decimal_type": _("a number"),
        "is_instance_of": _("a number"),
    }.get(item["type"])
    if wanted is None:
        return f"{item['msg'][0].lower()}{item['msg'][1:]} ({_shown(item['input'])})"
    return _("{value} stands where {wanted} is needed").format(
        value=_shown(item["input"]), wanted=wanted
    )


def _hint_for_value(item: ErrorDetails) -> str:
    if item["type"] == "literal_error":
        options = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
        near = nearest(str(item["input"]), options)
        if near:
            return _("did you mean {key}?").format(key=f'"{near}"')
    return ""


def _hint_for_unknown(model: type[BaseModel], place: Place) -> str:
    """The nearest right key of that table, or the table in which this very key would be right."""
    table = _model_at(model, place[:-1])
    here = _keys(table) if table else []
    key = str(place[-1])
    near = nearest(key, here)
    if near:
        return _("did you mean {key}?").format(key=f"`{near}`")
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner and key in _keys(inner):
            return _("it belongs under [{table}]").format(table=field.alias or name)
    return _("keys here: {keys}").format(keys=", ".join(here))


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel] | None:
    """The model of the table at `place`; a part that names no field is a free key or an index."""
    current: type[BaseModel] | None = model
    for part in place:
        if current is None:
            return None
        fields = {field.alias or name: field for name, field in current.model_fields.items()}
        if part in fields:
            current = _model_in(fields[str(part)].annotation)
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel  # noqa: PLC0415  (`status` reads TOML without it)

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found:
            return found
    return None


def _is_table(value: object) -> bool:
    return isinstance(value[0] if isinstance(value, list) and value else value, dict)


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def _shown(value: object) -> str:
    text = repr(str(value)) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
