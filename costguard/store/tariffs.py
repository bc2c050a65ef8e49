"""Billing rules in the database: whole as JSON, with their chief figures beside it."""

from __future__ import annotations

from functools import lru_cache

from costguard.core.tariff import Tariff, tariff_from_json
from costguard.store.models import Instance, PowerInterval

# The same few rules are read again and again, by every job on every pass.
_tariff = lru_cache(maxsize=256)(tariff_from_json)


def tariff_of(row: Instance | PowerInterval) -> Tariff:
    """The billing rule of this row: of an instance as it was last read, of running time its own.

    Rows from before rules were stored whole have their price and quantum alone.
    """
    if row.tariff_json is not None:
        return _tariff(row.tariff_json)
    if isinstance(row, Instance):
        return Tariff(row.price_micros_per_hour, row.quantum_s, row.paused_micros_per_hour)
    return Tariff(row.price_micros_per_hour, row.quantum_s)


def disk_tariff_of(row: PowerInterval) -> Tariff:
    """The billing rule of a disk's interval."""
    if row.tariff_json is not None:
        return _tariff(row.tariff_json)
    return Tariff(0, 1, row.price_micros_per_hour)


def set_tariff(instance: Instance, tariff: Tariff) -> None:
    """Write a billing rule down: whole, and its chief figures for whoever reads the table."""
    instance.price_micros_per_hour = tariff.price_micros_per_hour
    instance.quantum_s = tariff.quantum_s
    instance.paused_micros_per_hour = tariff.paused_micros_per_hour
    instance.tariff_json = tariff.to_json()
