"""The ledger as plain-text accounting: for hledger, and for Beancount.

Syntax: hledger's manual (journal format) and Beancount's language syntax. Every account and the
commodity are declared first, so that the strict checks of both pass.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from costguard.core.money import MICROS_PER_YUAN
from costguard.report.figures import time_text
from costguard.report.ledger_lines import one_line, postings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from costguard.report.ledger_lines import Line

CURRENCY = "CNY"


def hledger_chunks(lines: Callable[[], Iterable[Line]]) -> Iterator[str]:
    """A journal that `hledger check --strict` passes; `lines` is walked through twice."""
    yield f"commodity 1000.000000 {CURRENCY}\n"
    accounts, _first = _declared(lines())
    yield from (f"account {':'.join(account)}\n" for account in accounts)
    for line in lines():
        entry, sides = line.entry, postings(line)
        if not sides:
            continue
        key, note = _hledger_text(entry.key), _hledger_text(entry.note)
        yield f"\n{line.on} * ({key}) {_hledger_text(line.job)} | {entry.kind}\n"
        yield f"    ; utc: {time_text(entry.at_ms)}\n"
        yield f"    ; note: {note}\n"
        for side in sides:
            yield f"    {':'.join(side.account)}    {_amount(side.micros)} {CURRENCY}\n"


def beancount_chunks(lines: Callable[[], Iterable[Line]]) -> Iterator[str]:
    """A ledger that Beancount loads without an error; `lines` is walked through twice."""
    yield f'option "title" "costguard"\noption "operating_currency" "{CURRENCY}"\n\n'
    accounts, first = _declared(lines())
    yield from (f"{first} open {':'.join(account)} {CURRENCY}\n" for account in accounts)
    for line in lines():
        entry, sides = line.entry, postings(line)
        if not sides:
            continue
        yield f"\n{line.on} * {_quoted(line.job)} {_quoted(f'{entry.kind}: {entry.note}')}\n"
        yield f"  key: {_quoted(entry.key)}\n"
        yield f"  utc: {_quoted(time_text(entry.at_ms) or '')}\n"
        for side in sides:
            yield f"  {':'.join(side.account)}  {_amount(side.micros)} {CURRENCY}\n"


def _declared(lines: Iterable[Line]) -> tuple[list[tuple[str, ...]], str]:
    """Every account that is posted to, and the first day that any is."""
    accounts: dict[tuple[str, ...], None] = {}
    first = ""
    for line in lines:
        on = line.on.isoformat()
        first = min(first or on, on)
        accounts.update(dict.fromkeys(side.account for side in postings(line)))
    return sorted(accounts), first


def _amount(micros: int) -> str:
    return f"{Decimal(micros) / MICROS_PER_YUAN:.6f}"


def _quoted(text: str) -> str:
    return '"' + one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


_PLAIN: dict[str, str | int | None] = {";": ",", "(": "[", ")": "]", "|": "/"}


def _hledger_text(text: str) -> str:
    """`text` without what means something to hledger: comments, code and payee marks."""
    return one_line(text).translate(str.maketrans(_PLAIN))
