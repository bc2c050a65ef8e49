"""What the platform was started with: the command line, checked and in integers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from costguard.localcloud.meter import parse_yuan
from costguard.localcloud.rules import PER_CLOCK, PER_START, Offer, Rules, parse_offer

if TYPE_CHECKING:
    from collections.abc import Sequence

S_PER_HOUR = 3_600
DEFAULT_PRICES_YUAN = {"RTX 3090": "15", "A10": "20", "A100": "40"}


def default_prices() -> dict[str, int]:
    """Micro-yuan per hour and card of every GPU type on offer."""
    return {gpu: parse_yuan(price) for gpu, price in DEFAULT_PRICES_YUAN.items()}


@dataclass(frozen=True)
class Options:
    """How the platform behaves when no fault is set. Times in seconds, money in micro-yuan."""

    home: Path
    port: int = 0
    exit_when_idle_s: float | None = None
    parent_fd: int | None = None
    prices: dict[str, int] = field(default_factory=default_prices)
    quantum_s: int = 1
    rules: Rules = field(default_factory=Rules)
    disk_price_micros_per_hour: int = 0
    bill_from: str = "running"
    start_s: float = 0.3
    stop_s: float = 0.3
    min_timer_lead_s: float = 0.0
    balance_micros: int = 1_000_000_000
    stock: int = 4


def parse(argv: Sequence[str] | None = None) -> Options:
    """The options of a command line; a wrong one ends the program with status 2."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.rounding == PER_CLOCK and S_PER_HOUR % given.quantum_s:
        parser.error(
            f"--rounding: on the clock a quantum of {given.quantum_s} s needs to divide the hour"
        )
    prices = default_prices()
    for gpu, micros in given.price:
        prices[gpu] = micros
    return Options(
        home=Path(given.home).expanduser().absolute(),
        port=given.port,
        exit_when_idle_s=given.exit_when_idle_s,
        parent_fd=given.parent_fd,
        prices=prices,
        quantum_s=given.quantum_s,
        rules=Rules(
            rounding=given.rounding,
            minimum_s=given.minimum_s,
            minimum_micros=given.minimum_charge,
            zone=given.zone,
            offers=tuple(given.discount),
        ),
        disk_price_micros_per_hour=given.disk_price,
        bill_from=given.bill_from,
        start_s=given.start_s,
        stop_s=given.stop_s,
        min_timer_lead_s=given.min_timer_lead_s,
        balance_micros=given.balance,
        stock=given.stock,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m costguard.localcloud",
        description="A small GPU rental platform on this machine, on loopback only.",
    )
    add = parser.add_argument
    add("--home", required=True, help="where state, disks and endpoint.json live")
    add("--port", type=_port, default=0, help="0: the last one if it is free, else any")
    add("--exit-when-idle-s", type=_seconds, help="exit when nothing is on and nobody asks")
    add("--parent-fd", type=int, help="a pipe's read end; its end of file ends the platform")
    add("--price", type=_gpu_price, nargs="+", action="extend", default=[], metavar="GPU=YUAN")
    add("--quantum-s", type=_quantum, default=1, help="billing quantum: 1, 60, 3600, any")
    add("--rounding", choices=(PER_START, PER_CLOCK), default=PER_START, help="of the quantum")
    add("--minimum-s", type=_whole, default=0, help="seconds that a start costs at least")
    add("--minimum-charge", type=_yuan, default=0, help="yuan that a start costs at least")
    add(
        "--discount",
        type=_offer,
        nargs="+",
        action="extend",
        default=[],
        metavar="WHEN=PERCENT",
        help="of the price, at HH:MM-HH:MM or on a date: 23:00-07:00=50 2026-10-01=80",
    )
    add("--zone", type=_zone, default="Asia/Shanghai", help="the clock of rounding and discounts")
    add("--disk-price", type=_yuan, default=0, help="yuan per hour, from creation to release")
    add("--bill-from", choices=("running", "starting"), default="running")
    add("--start-s", type=_seconds, default=0.3)
    add("--stop-s", type=_seconds, default=0.3)
    add("--min-timer-lead-s", type=_seconds, default=0.0)
    add("--balance", type=_yuan, default=parse_yuan(1000), help="yuan in the wallet")
    add("--stock", type=int, default=4, help="cards of each GPU type")
    return parser


def _yuan(text: str) -> int:
    try:
        return parse_yuan(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _gpu_price(text: str) -> tuple[str, int]:
    gpu, equals, price = text.partition("=")
    if not equals or not gpu.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not GPU=YUAN, as in 'RTX 3090=15'")
    return gpu.strip(), _yuan(price)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of zero or more")
    return seconds


def _offer(text: str) -> Offer:
    try:
        return parse_offer(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _zone(text: str) -> str:
    try:
        return ZoneInfo(text).key
    except (ZoneInfoNotFoundError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time zone") from None


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return int(text)


def _quantum(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds from 1 on")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)
