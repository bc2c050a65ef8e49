"""What was spent on instances: the larger of what we metered and what the platform billed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from costguard.store.models import Instance

S_PER_HOUR = 3_600


def spent_micros(instances: Iterable[Instance], posted: Mapping[int, int]) -> int:
    """max(estimated, confirmed), instance by instance: a bill that lags must not hide spending.

    `posted` is what the ledger has posted, by the instances' ids.
    """
    return sum(max(posted.get(row.id, 0), row.bill_micros or 0) for row in instances)


def billed_s(amount_micros: int, price_micros_per_hour: int) -> int:
    """The seconds that an amount pays for, so that hours times price is the subtotal.

    Not the time that was metered: under a tariff by the hour one minute is an hour paid. Every
    quantum is whole seconds; what the amount was rounded up by is far less than half of one.
    """
    if price_micros_per_hour == 0:
        return 0
    seconds, rest = divmod(abs(amount_micros) * S_PER_HOUR, price_micros_per_hour)
    seconds += 2 * rest >= price_micros_per_hour
    return seconds if amount_micros >= 0 else -seconds
