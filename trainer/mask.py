"""`python -m trainer mask FILE --out FILE`: personal data out, everything else as it was (脱敏).

Each piece is replaced by one of the same form that can be nobody's: a phone number of 11 digits
that no operator gives out, an ID card whose check digit is wrong. The same piece gets the same
replacement through the whole file, so that an order asked for by its phone number is still found
by it in the answer. Only the texts change: line ends, spaces, order, keys and escapes stay, byte
for byte, and what is masked is found by `check` no more. Standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.check import refusal_json
from trainer.exits import DATA, FINISHED, USAGE, Refusal
from trainer.formats.rows import CONVERT_HINT, SUFFIXES
from trainer.lang import told
from trainer.parsers import ToldParser
from trainer.personal import digits_of, find_personal, hidden, passes_luhn
from trainer.progress import say, tell

SCHEMA = "costguard.datamask/1"
SHOWN_REPLACEMENTS = 20
_STEMS = "甲乙丙丁戊己庚辛壬癸"
_JSON_TOKEN = re.compile(
    r'"(?P<text>(?:[^"\\\n]|\\.)*)"(?P<key>\s*:)?|(?<![\w.+-])(?P<number>[1-9]\d{10,18})(?![\w.])'
)
_BOM = "\ufeff"


@dataclass(frozen=True)
class Replacement:
    """One piece that was replaced. `shown` is the old one with its middle hidden."""

    line: int
    kind: str
    shown: str
    by: str

    def as_json(self) -> dict[str, Any]:
        """The replacement as `mask --json` prints it."""
        return {"line": self.line, "kind": self.kind, "old": self.shown, "new": self.by}


@dataclass
class Masker:
    """Replaces personal data, the same piece always by the same."""

    replaced: list[Replacement] = field(default_factory=list)
    _serials: dict[tuple[str, str], int] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def mask_text(self, text: str, line: int) -> str:
        """`text` without personal data; what was replaced is added to `replaced`."""
        parts, done = [], 0
        for span in find_personal(text):
            old = text[span.start : span.end]
            new = self._replacement(span.kind, old)
            self.replaced.append(Replacement(line, span.kind, hidden(old), new))
            parts += [text[done : span.start], new]
            done = span.end
        return "".join([*parts, text[done:]])

    def distinct(self) -> dict[str, int]:
        """How many different pieces there were of each kind."""
        return dict(self._counts)

    def _replacement(self, kind: str, old: str) -> str:
        digits = digits_of(old)
        same = digits if kind in {"phone", "landline", "id_card", "bank_card"} else old.casefold()
        serial = self._serials.get((kind, same))
        if serial is None:
            self._counts[kind] += 1
            serial = self._serials[kind, same] = self._counts[kind]
        if kind in {"phone", "landline", "id_card", "bank_card"}:
            return _with_digits(old, _number(kind, digits, serial))
        if kind == "email":
            return f"user{serial}@example.com"
        if kind == "plate":
            return f"某A{serial:05}"
        if kind == "account":
            return f"user{serial:04}" if not old.isdigit() else f"{serial:0{len(old)}}"
        if kind == "name":
            return "某" + "".join(_STEMS[int(digit)] for digit in str(serial - 1))
        return _address(old, serial)


def mask_content(content: str, suffix: str, masker: Masker) -> str:
    """The content of a data file with its texts masked, and nothing else changed.

    In JSON, texts are taken out of their quotes one by one, so a broken row is masked too.
    In CSV a piece of personal data holds neither comma nor quote, so lines are masked as they are.
    """
    lines = content.split("\n")
    if suffix == ".csv":
        return "\n".join(masker.mask_text(line, n) for n, line in enumerate(lines, start=1))

    def masked(line: str, number: int) -> str:
        def replace(match: re.Match[str]) -> str:
            if match["number"]:
                return masker.mask_text(match["number"], number)
            if match["key"]:
                return match[0]
            return _masked_literal(match[0], masker, number)

        return _JSON_TOKEN.sub(replace, line)

    return "\n".join(masked(line, n) for n, line in enumerate(lines, start=1))


def run_mask(argv: list[str]) -> int:
    """FINISHED once `--out` holds the masked file. Raises Refusal."""
    parser = ToldParser(prog="python -m trainer mask", allow_abbrev=False)
    parser.add_argument("file", type=Path, help="a .jsonl, .json or .csv file in UTF-8")
    parser.add_argument("--out", type=Path, required=True, help="the new file; the old one stays")
    parser.add_argument("--json", action="store_true", help="one JSON document, nothing else")
    options = parser.parse_args(argv)
    try:
        masker = mask_file(options.file, options.out)
    except Refusal as refusal:
        if options.json:
            say(json.dumps(refusal_json(refusal), ensure_ascii=False))
            return refusal.exit_code
        raise
    if options.json:
        say(json.dumps(_as_json(options.file, options.out, masker), ensure_ascii=False))
    else:
        tell("\n".join(_as_text(options.file, options.out, masker)))
    return FINISHED


def mask_file(path: Path, out: Path) -> Masker:
    """What was replaced, once `out` holds `path` masked. Raises Refusal; never overwrites."""
    if path.suffix not in SUFFIXES or out.suffix != path.suffix:
        hint = f"give two files of the same suffix: {', '.join(SUFFIXES)}"
        raise Refusal(USAGE, f"{path.name} is not to become {out.name}", where="--out", hint=hint)
    if out.exists():
        hint = "give another --out, or remove that file yourself"
        raise Refusal(USAGE, "the file is there already", where=str(out), hint=hint)
    try:
        content = path.read_bytes().decode("utf-8")
    except OSError as error:
        hint = "check the path and the file's permissions"
        raise Refusal(DATA, f"{error.strerror}", where=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        hint = CONVERT_HINT.format(codec="GB18030") + " (it may be GBK)"
        raise Refusal(DATA, f"line {line} is not UTF-8", where=str(path), hint=hint) from error
    masker = Masker()
    _write_whole(out, mask_content(content, path.suffix, masker).encode("utf-8"))
    return masker


def _write_whole(out: Path, data: bytes) -> None:
    """`out` with `data` in it, or not there at all."""
    temporary = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(out)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        hint = "give an --out that can be written"
        raise Refusal(USAGE, f"{error.strerror}", where=str(out), hint=hint) from error


def _masked_literal(literal: str, masker: Masker, line: int) -> str:
    """A JSON text in its quotes, masked; one without personal data is returned as it stands."""
    try:
        text = json.loads(literal)
    except ValueError:
        text = None
    if not isinstance(text, str):
        return f'"{masker.mask_text(literal[1:-1], line)}"'
    new = masker.mask_text(text, line)
    # A text that was written in ASCII alone is written so again.
    return literal if new == text else json.dumps(new, ensure_ascii=literal.isascii())


def _number(kind: str, digits: str, serial: int) -> str:
    """Digits of the same number that can belong to nobody, counted by `serial`."""
    width = len(digits)
    if kind == "phone":  # mobile numbers begin with 13 to 19
        return "10" + str(serial).zfill(width - 2)
    if kind == "landline":  # after the area code no number begins with 0
        area = 3 if digits[1] in "12" else 4
        return digits[:area] + str(serial).zfill(width - area)
    if kind == "bank_card":
        head = "6200" + str(serial).zfill(width - 5)
        return next(head + check for check in "01" if not passes_luhn(head + check))
    return "110000" + str(serial).zfill(width - 6)  # its date of birth is none


def _with_digits(old: str, digits: str) -> str:
    """`old` with its digits replaced in order: separators stay where they are."""
    new = iter(digits)
    return "".join(next(new) if digits_of(character) else character for character in old)


def _address(old: str, serial: int) -> str:
    """The same parts with their names gone: 浙江省杭州市文三路478号 → 某省某市某路1号."""
    named = re.sub(
        r"[\u4e00-\u9fff]{1,9}?(省|自治区|自治州|盟|市|区|县|旗|街道|镇|乡|大道|大街|街|路|巷|胡同|弄|道|"
        r"小区|花园|新村|大厦|公寓|广场|家园|苑|府|园|城)",
        r"某\1",
        old,
    )
    numbers = iter([str(serial)])
    return re.sub(r"\d+", lambda _match: next(numbers, "1"), named)


def _as_json(path: Path, out: Path, masker: Masker) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "file": str(path),
        "out": str(out),
        "replaced": dict(Counter(item.kind for item in masker.replaced)),
        "distinct": masker.distinct(),
        "replacements": [item.as_json() for item in masker.replaced],
    }


def _as_text(path: Path, out: Path, masker: Masker) -> list[str]:
    counts = Counter(item.kind for item in masker.replaced)
    distinct = masker.distinct()
    lines = [f"{path} -> {out}: {counts.total()} pieces replaced"]
    lines += [f"  {n} {told(kind)} ({distinct[kind]} different)" for kind, n in counts.items()]
    lines += [
        f"  line {item.line}: {told(item.kind)}: {item.shown} -> {item.by}"
        for item in masker.replaced[:SHOWN_REPLACEMENTS]
    ]
    if len(masker.replaced) > SHOWN_REPLACEMENTS:
        lines.append(f"  and {len(masker.replaced) - SHOWN_REPLACEMENTS} more (all: --json)")
    lines.append("  names in the middle of a sentence are not found: read the file once yourself")
    return lines
