"""Money is an `int` of micro-yuan; `Decimal` stands at the edges, a float nowhere."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

MICROS_PER_YUAN = 1_000_000
MICROS_PER_FEN = 10_000

# A budget beyond this is a typing mistake, and it keeps every sum far inside SQLite's 64 bits.
YUAN_MAX = 10_000_000

_MICRO = Decimal("0.000001")
# A comma only ever groups thousands: read as nothing at all, "0,35" would be a hundredfold.
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")


class MoneyError(ValueError):
    """A text that is not an amount of yuan; the message says why."""


def parse_yuan(value: object) -> int:
    """Micro-yuan of a number or text such as `80`, `"0.35"` or `"¥1,200.50"`.

    Refuses negative, infinite, absurdly large and finer-than-micro amounts rather than rounding
    them: nobody means a budget of 0.0000001 yuan, and a silent zero would be a surprise.
    """
    text = str(value).strip().removeprefix("¥").removeprefix("￥").removesuffix("元").strip()
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    try:
        yuan = Decimal(text)
    except InvalidOperation:
        raise MoneyError(f"{value!r} is not an amount of yuan, such as 80 or 0.35") from None
    if not yuan.is_finite():
        raise MoneyError(f"{value!r} is not a finite amount of yuan")
    if yuan < 0:
        raise MoneyError(f"{value!r} is negative; an amount of yuan is 0 or more")
    if yuan > YUAN_MAX:
        raise MoneyError(f"{value!r} is more than {YUAN_MAX} yuan; check the figure")
    # Compared, not multiplied: a product is rounded to 28 digits and would hide the rest.
    if yuan != yuan.quantize(_MICRO):
        raise MoneyError(f"{value!r} has more than six decimals")
    return int(yuan * MICROS_PER_YUAN)


def yuan_text(micros: int) -> str:
    """The exact amount as JSON carries it: two to six decimals, for example `"0.35"`."""
    sign = "-" if micros < 0 else ""
    whole, rest = divmod(abs(micros), MICROS_PER_YUAN)
    digits = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{digits}"


def yuan_screen(micros: int, symbol: str = "¥") -> str:
    """The amount as a person reads it, to the fen (half up), with thousands separators.

    An amount under a fen that is not zero keeps four decimals: a short run on a cheap card must
    not look free.
    """
    sign = "-" if micros < 0 else ""
    size = abs(micros)
    if 0 < size < MICROS_PER_FEN:
        text = f"0.{(size + 50) // 100:04d}"
    else:
        fen = (size + MICROS_PER_FEN // 2) // MICROS_PER_FEN
        text = f"{fen // 100:,}.{fen % 100:02d}"
    return f"{sign}{symbol}{text}" if symbol != "元" else f"{sign}{text}元"


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient rounded up: what is owed is never rounded in our favour."""
    return -(-numerator // denominator)
