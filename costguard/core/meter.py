"""From power reads to metered time: when rent began, how far it is known to run, when it ended.

The platform's own times are believed only inside what we saw ourselves: rent cannot have begun
before our start call or our last off read, nor after the first read that shows it on; it cannot
have ended before the last read that shows it on, nor after the first that shows it off. A time
outside of that means that its clock and ours disagree: then the longer interval is charged.
Where a platform tells no times and nobody looked, what may have run is taken to have run, up to
when what was reserved for it had ended it: what had it end was armed, and if it failed, the next
look or the bill says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from costguard.core.lease import Interval
from costguard.core.moment import Moment, elapsed_ms
from costguard.core.power import Power, apart_ms
from costguard.core.tariff import Tariff, price_points_ms, running_micros

if TYPE_CHECKING:
    from costguard.core.power import PowerRead


@dataclass(frozen=True, slots=True)
class Metered:
    """The open power interval of an instance, or the part of it since its price last changed."""

    id: int
    started_ms: int
    anchor: Moment  # when the read that opened it began: elapsed time is counted from here
    seen_to_ms: int  # the last read that showed it on
    metered_to_ms: int  # how far it is charged; beyond `seen_to_ms` only by assumption
    posted_micros: int
    tariff: Tariff
    origin_ms: int | None = None  # when rent began, where that was before `started_ms`
    earliest_ms: int | None = None  # before when rent surely had not begun; None: it is `rent_ms`
    seen_told_ms: int | None = None  # the platform's clock when it told what `seen_to_ms` says
    seen_boot_id: str = ""  # and our boot then

    @property
    def rent_ms(self) -> int:
        """When rent began (UTC ms): from here quanta are counted, whatever the price did since."""
        return self.started_ms if self.origin_ms is None else self.origin_ms


@dataclass(frozen=True, slots=True)
class MeterStep:
    """What one read does to the meter. Every field is UTC ms, or None where nothing happens."""

    open_at_ms: int | None = None
    earliest_ms: int | None = None  # where it opens: before when rent surely had not begun
    origin_ms: int | None = None  # where it opens: when rent began, if that was before our time
    seen_to_ms: int | None = None
    meter_to_ms: int | None = None
    close_at_ms: int | None = None
    assumed_from_ms: int | None = None  # from here on nobody saw it run: to be said aloud


NOTHING = MeterStep()
# Clocks that differ by less agree: an answer takes time, and says it in whole seconds.
CLOCKS_AGREE_MS = 5_000
SOONEST_END_MS = 300_000
LOOKS_MISSED = 3


def step(
    interval: Metered | None,
    read: PowerRead | None,
    now: Moment,
    earliest_ms: int | None,
    assume_after_ms: int,
    *,
    may_have_run: bool = False,
    ends_by_ms: int | None = None,
) -> MeterStep:
    """What to do with the meter, given the latest read (None: the platform did not answer).

    `earliest_ms` is the time before which rent cannot have begun: our last start call, or the
    last read that showed the instance off. Without an answer the interval is left where it was
    seen until `assume_after_ms` have gone by, and then runs on by our own clock: unknown is
    treated as running, and the correction is posted when the truth is known.

    `ends_by_ms`: by when an enforcer had surely ended it (UTC ms as our clock is now), if it was
    not seen on since. What is assumed goes no further.

    `may_have_run`: it was started, and `fits_unseen`; the first read that shows it off is then
    where a power interval ended, or `ends_by_ms`.
    """
    if interval is None:
        return _opening(read, earliest_ms, ends_by_ms, may_have_run=may_have_run)
    if read is None:
        if reach_ms(interval, now) - interval.seen_to_ms <= assume_after_ms:
            return NOTHING
        return _running_on(interval, _assumed_ms(interval, now, now, ends_by_ms))
    assumed_ms = _assumed_ms(interval, read.begun, now, ends_by_ms)
    if shows_nothing(read):
        # Treated as running, but it has shown nothing: what is known later may still correct it.
        return _running_on(interval, assumed_ms)
    if read.is_charging:
        seen_ms = max(interval.seen_to_ms, _read_ms(interval, read))
        return MeterStep(seen_to_ms=seen_ms, meter_to_ms=max(interval.metered_to_ms, seen_ms))
    if _never_was(interval, read):
        return MeterStep(close_at_ms=interval.started_ms)
    told_ms = None if _tells_earlier(interval, read) else _told_end_ms(interval, read)
    if told_ms is not None and told_ms >= interval.seen_to_ms:
        first_off_ms = max(_read_ms(interval, read), interval.seen_to_ms)
        return MeterStep(close_at_ms=min(told_ms, first_off_ms))
    is_guess = assumed_ms - interval.seen_to_ms > assume_after_ms
    from_ms = interval.seen_to_ms if is_guess else None
    return MeterStep(close_at_ms=assumed_ms, assumed_from_ms=from_ms)


def _read_ms(interval: Metered, read: PowerRead) -> int:
    """What the interval reaches when a read was made, by our clocks or the platform's own.

    After a boot anew with a wall clock that had been set, neither of ours knows how long we were
    away; how long its rent has run is told on one clock.
    """
    reached_ms = reach_ms(interval, read.begun)
    since_ms, begun_ms = read.charged_since_ms, _begun_ms(interval, read)
    if since_ms is None or read.told_at_ms is None:
        return reached_ms
    if begun_ms is not None and since_ms < begun_ms - CLOCKS_AGREE_MS:
        return reached_ms  # that is longer than this interval: it goes on with one closed too early
    ran_ms = read.told_at_ms - clock_ahead_ms(read) - since_ms
    told_ms = interval.rent_ms + ran_ms
    return told_ms if told_ms - reached_ms > CLOCKS_AGREE_MS else reached_ms


def _running_on(interval: Metered, assumed_ms: int) -> MeterStep:
    """Charged as running although nobody saw it; said once, when it begins."""
    is_first = interval.metered_to_ms <= interval.seen_to_ms < assumed_ms
    from_ms = interval.seen_to_ms if is_first else None
    return MeterStep(meter_to_ms=max(interval.metered_to_ms, assumed_ms), assumed_from_ms=from_ms)


def _assumed_ms(interval: Metered, at: Moment, now: Moment, ends_by_ms: int | None) -> int:
    """How far it is taken to have run by `at`, where nobody saw it.

    What was to end it has failed if it was seen on afterwards: then nothing is known to have.
    """
    reached_ms = max(reach_ms(interval, at), interval.seen_to_ms)
    if ends_by_ms is None:
        return reached_ms
    ends_ms = reach_ms(interval, now) + ends_by_ms - now.utc_ms
    return reached_ms if ends_ms < interval.seen_to_ms else min(reached_ms, ends_ms)


def ended_before_ms(
    interval: Metered, read: PowerRead, now: Moment, ends_by_ms: int | None
) -> int | None:
    """When the interval ended, where the platform tells of rent that began anew since; else None.

    Of the rent before the present one it says nothing more: that is taken to have run up to the
    new start, or to when an enforcer had surely ended it. A platform whose own time is not known
    is not believed in this: its clock and ours may be apart.
    """
    since_ms = read.charged_since_ms
    if since_ms is None or read.told_at_ms is None or since_ms > _answered_ms(read):
        return None
    if _never_was(interval, read):
        return interval.started_ms  # what is told ended before it, and no other look had seen it
    told_ms = interval.seen_told_ms
    if told_ms is not None and since_ms + clock_ahead_ms(read) <= told_ms:
        return None  # by the platform's one clock it had begun when it was last seen on
    since_ms += reach_ms(interval, read.begun) - read.begun.utc_ms
    if since_ms - interval.seen_to_ms <= CLOCKS_AGREE_MS:
        return None
    if interval.seen_told_ms is None:  # an answer of unknown alone had it run before
        return interval.started_ms
    return min(since_ms, _assumed_ms(interval, read.begun, now, ends_by_ms))


def clock_ahead_ms(read: PowerRead) -> int:
    """How far the platform's clock is ahead of our wall clock; 0 where they agree, or not told."""
    return ahead_of_ms(read.told_at_ms, read.begun.utc_ms)


def ahead_of_ms(told_ms: int | None, ours_ms: int) -> int:
    """How far a clock that was told is ahead of ours; 0 where they agree, or it was not told."""
    ahead_ms = 0 if told_ms is None else told_ms - ours_ms
    return 0 if abs(ahead_ms) < CLOCKS_AGREE_MS else ahead_ms


def in_our_time(read: PowerRead | None) -> PowerRead | None:
    """The read with the platform's times as our wall clock has them; unchanged where they agree.

    A time that is told on a clock ahead of ours would lie inside of what we saw, and still be late.
    """
    ahead_ms = 0 if read is None else clock_ahead_ms(read)
    if read is None or ahead_ms == 0:
        return read
    since_ms, until_ms = read.charged_since_ms, read.charged_until_ms
    return replace(
        read,
        charged_since_ms=None if since_ms is None else since_ms - ahead_ms,
        charged_until_ms=None if until_ms is None else until_ms - ahead_ms + CLOCKS_AGREE_MS,
    )


def tells_nothing_new(read: PowerRead | None, rested_ms: int | None, called_ms: int | None) -> bool:
    """Off when last seen (`rested_ms`), not called on since, and an answer of unknown now.

    It is on only once it is seen on: then what lies between is charged.
    """
    if read is None or rested_ms is None or not shows_nothing(read):
        return False
    return rested_ms >= (called_ms or 0)


def shows_nothing(read: PowerRead) -> bool:
    """Whether the answer was that it is not known."""
    return read.power is Power.UNKNOWN and read.charging is None


def _told_end_ms(interval: Metered, read: PowerRead) -> int | None:
    """The platform's word on the end, in the time that the interval is metered in, or None.

    When it says that rent ended is as wrong as its clock and ours are apart; how long it says that
    rent has run is told on one clock, but is too short if it was switched on anew between two
    looks. Of the two the later counts.
    """
    since_ms, until_ms = read.charged_since_ms, read.charged_until_ms
    if since_ms is None or until_ms is None:
        return until_ms
    begun_ms = _begun_ms(interval, read)
    if begun_ms is not None and since_ms < begun_ms - CLOCKS_AGREE_MS:  # since before this interval
        return interval.rent_ms + until_ms - begun_ms
    return max(until_ms, interval.rent_ms + until_ms - since_ms)


def _never_was(interval: Metered, read: PowerRead) -> bool:
    """Whether an answer of unknown alone had it run, and it is still starting, free of charge.

    Or the rent that is told ended before. An answer that shows it on, by a clock that was told with
    it, is not undone by any other.
    """
    if interval.seen_told_ms is not None or read.told_at_ms is None:
        return False
    until_ms = read.charged_until_ms
    if until_ms is None:
        return read.power is Power.STARTING
    until_ms += reach_ms(interval, read.begun) - read.begun.utc_ms
    return until_ms + CLOCKS_AGREE_MS < interval.rent_ms


def _tells_earlier(interval: Metered, read: PowerRead) -> bool:
    """Whether the rent that is told had ended when this one was seen to begin.

    One of the two answers came out of a cache. The told end is no end of this one, then.
    """
    since_ms, until_ms, begun_ms = (
        read.charged_since_ms, read.charged_until_ms, _begun_ms(interval, read)
    )  # fmt: skip
    if read.told_at_ms is None or since_ms is None or until_ms is None or begun_ms is None:
        return False
    is_earlier = since_ms < begun_ms - CLOCKS_AGREE_MS
    return is_earlier and until_ms <= begun_ms + CLOCKS_AGREE_MS


def _begun_ms(interval: Metered, read: PowerRead) -> int | None:
    """When it began by the platform's clock, as our wall clock has that; None: not known."""
    if interval.seen_told_ms is None:
        return None
    return interval.seen_told_ms - (interval.seen_to_ms - interval.rent_ms) - clock_ahead_ms(read)


def as_of_ms(earlier: Moment, now: Moment) -> int:
    """UTC ms of `earlier` on the wall clock as it is set at `now`."""
    return now.utc_ms - apart_ms(earlier, now)


def earliest_start_ms(
    called_ms: int | None, ended_ms: int | None, seen_off_ms: int | None, cache_age_ms: int
) -> int | None:
    """Before when rent cannot have begun (UTC ms); None: it is not known.

    That is our start call, the last end, or the last read that showed it off, which may have come
    out of the platform's cache.
    """
    off_ms = None if seen_off_ms is None else seen_off_ms - cache_age_ms
    return max((at for at in (called_ms, ended_ms, off_ms) if at is not None), default=None)


def told_start_ms(
    read: PowerRead | None,
    earliest_ms: int | None,
    rested_ms: int | None,
    ended_told_ms: int | None = None,
) -> int | None:
    """`earliest_ms`, or when the platform has rent begin before it, since it last was off.

    Our start call bounds nothing where someone else had switched it on before, nor an answer of
    off that came out of a cache. What began before the last end is another rent: that is
    `ended_told_ms` by the platform's clock, or where none is known `rested_ms` in our time: that is
    `earliest_start_ms` without that call.
    """
    if read is None or read.told_at_ms is None or read.charged_since_ms is None:
        return earliest_ms
    if ended_told_ms is not None and earliest_ms is not None:
        is_new = read.charged_since_ms + clock_ahead_ms(read) > ended_told_ms
        return min(earliest_ms, read.charged_since_ms) if is_new else earliest_ms
    if earliest_ms is None or rested_ms is None or read.charged_since_ms < rested_ms:
        return earliest_ms
    return min(earliest_ms, read.charged_since_ms)


def fits_unseen(
    read: PowerRead | None, earliest_ms: int | None, looks_apart_ms: int, *, ends_it: bool
) -> bool:
    """Whether a start and an end fit in before this read, where nobody looked.

    They do if more than `looks_apart_ms` went by; and if off can only mean ended (`ends_it`:
    nobody saw it off since the start call, and it was called off since, or seen on, or its lease
    is over), not "not on yet".
    """
    if read is None or earliest_ms is None:
        return False
    return ends_it or read.begun.utc_ms - earliest_ms > looks_apart_ms


def looks_apart_ms(poll_interval_ms: int, cache_age_ms: int) -> int:
    """How long nobody has to have looked for a whole power interval to have been missed.

    Less, and it is a poll or two that got no answer while the instance was coming on: nothing but
    our own stop call ends a rent that soon.
    """
    return max(SOONEST_END_MS, LOOKS_MISSED * poll_interval_ms) + cache_age_ms


def _opening(
    read: PowerRead | None,
    earliest_ms: int | None,
    ends_by_ms: int | None,
    *,
    may_have_run: bool,
) -> MeterStep:
    if read is None:
        return NOTHING
    if not read.is_charging:
        return _unseen(read, earliest_ms, ends_by_ms, may_have_run=may_have_run)
    latest_ms = read.begun.utc_ms
    if earliest_ms is None:
        return _taken_over(read, latest_ms)
    bound_ms = min(earliest_ms, latest_ms)
    started_ms, since_ms = bound_ms, read.charged_since_ms
    if since_ms is not None and since_ms <= _answered_ms(read):
        started_ms = max(since_ms, bound_ms)
    seen_ms = max(latest_ms, started_ms)
    return MeterStep(started_ms, bound_ms, seen_to_ms=seen_ms, meter_to_ms=seen_ms)


def _answered_ms(read: PowerRead) -> int:
    """When the answer was made: rent may begin while it is on its way, and is in it then."""
    if read.told_at_ms is None or clock_ahead_ms(read) != 0:
        return read.begun.utc_ms
    return max(read.told_at_ms, read.begun.utc_ms)


def _taken_over(read: PowerRead, latest_ms: int) -> MeterStep:
    """It was on before we knew of it: ours from this read on, its hours from when rent began."""
    since_ms = read.charged_since_ms
    origin_ms = None if since_ms is None or since_ms >= latest_ms else since_ms
    return MeterStep(latest_ms, origin_ms=origin_ms, seen_to_ms=latest_ms, meter_to_ms=latest_ms)


def start_bound_ms(found: MeterStep, tariff: Tariff) -> int | None:
    """Before when the rent that this step opens had surely not begun, as its lease has to take it.

    Where nobody knows when it began, its next quantum may begin at any time: as if this one had
    begun almost a whole one ago. On the clock that makes no difference.
    """
    if found.open_at_ms is None or found.earliest_ms is not None or tariff.by_clock:
        return found.earliest_ms
    if found.origin_ms is not None:
        return found.origin_ms
    return found.open_at_ms - tariff.quantum_ms + 1


def _unseen(
    read: PowerRead, earliest_ms: int | None, ends_by_ms: int | None, *, may_have_run: bool
) -> MeterStep:
    """A power interval that began and ended between two looks: the platform alone knows of it.

    Where it tells no times, all that lies between is charged, if the instance may have run at all:
    up to when what was reserved for it had surely ended it, which keeps the charge inside of that.
    One that had been closed too early is charged from there on.
    """
    since_ms, until_ms, latest_ms = read.charged_since_ms, read.charged_until_ms, read.begun.utc_ms
    assumed_ms = None
    if earliest_ms is None or (until_ms is None and read.power.may_charge):
        return NOTHING
    if since_ms is None:
        if not may_have_run:
            return NOTHING
        if ends_by_ms is not None:
            latest_ms = min(latest_ms, ends_by_ms)
        latest_ms = max(latest_ms, earliest_ms)
        since_ms = assumed_ms = earliest_ms
    ended_ms = latest_ms if until_ms is None else min(until_ms, latest_ms)
    if since_ms < earliest_ms < ended_ms and until_ms is not None:
        return MeterStep(earliest_ms, origin_ms=since_ms, close_at_ms=ended_ms)
    if not earliest_ms <= since_ms <= latest_ms:
        return NOTHING
    close_ms = max(ended_ms, since_ms)
    return MeterStep(since_ms, earliest_ms, close_at_ms=close_ms, assumed_from_ms=assumed_ms)


def reach_ms(interval: Metered, at: Moment) -> int:
    """UTC ms that the interval reaches at `at`, by the clock that says more time has passed."""
    return interval.anchor.utc_ms + elapsed_ms(interval.anchor, at)


def anchored(interval: Metered, read: PowerRead | None, now: Moment) -> Moment:
    """From where its time is counted, in this boot: no one can set this boot's clock back.

    Across a boot anew we have the wall clock alone, and it may have been set meanwhile. Where the
    platform told its time before and after, what went by on its clock counts if it is more.
    """
    reached_ms = reach_ms(interval, now)
    told_ms = None if read is None else read.told_at_ms
    if interval.seen_boot_id not in ("", now.boot_id) and told_ms is not None:
        assert interval.seen_told_ms is not None, "the two are noted together"
        assert read is not None, "it told the time"
        away_ms = told_ms - interval.seen_told_ms + elapsed_ms(read.begun, now)
        if interval.seen_to_ms + away_ms - reached_ms > CLOCKS_AGREE_MS:
            return Moment(interval.seen_to_ms + away_ms, now.boot_ms, now.boot_id)
    if interval.anchor.boot_id != now.boot_id:
        return Moment(reached_ms, now.boot_ms, now.boot_id)
    return interval.anchor


def told_with(interval: Metered, seen_to_ms: int, read: PowerRead | None) -> tuple[int | None, str]:
    """What the platform's clock said when it was seen up to `seen_to_ms`, and our boot then.

    Where this read does not say: what it would have said, as our own clock went on in this boot. A
    boot of `""` is one that no clock tells the distance to.
    """
    told_ms, boot_id = interval.seen_told_ms, interval.seen_boot_id
    if read is not None and read.told_at_ms is not None and not shows_nothing(read):
        return read.told_at_ms, read.begun.boot_id
    if told_ms is None or read is None or seen_to_ms <= interval.seen_to_ms:
        return told_ms, boot_id
    if boot_id != read.begun.boot_id:
        return told_ms, ""
    return told_ms + seen_to_ms - interval.seen_to_ms, boot_id


def owed_micros(interval: Metered, to_ms: int) -> int:
    """What the interval costs in all if it is metered up to `to_ms`.

    The part since its price last changed costs what the whole does less what came before: a quantum
    that had begun by then is not begun anew.
    """
    return _total_micros(interval, to_ms) - _total_micros(interval, interval.started_ms)


def turns_ms(interval: Metered, to_ms: int) -> tuple[int, ...]:
    """Where, up to `to_ms`, the price in force changes by the tariff's own rules."""
    return tuple(price_points_ms(interval.tariff, interval.started_ms, to_ms))


def told_of_ms(read: PowerRead | None, at_ms: int) -> int | None:
    """What the platform's clock said at `at_ms` by ours, as a read tells it; None: it does not."""
    if read is None or read.told_at_ms is None or shows_nothing(read):
        return None
    return read.told_at_ms - (read.begun.utc_ms - at_ms)


def is_of_before(read: PowerRead | None, ended_ms: int | None) -> bool:
    """Whether the rent that is told ended, by the platform's clock, when the last one did.

    By that one clock it is the same rent, whatever our wall clock was set to since. `read` is as
    the platform told it; `ended_ms`: the end of the last interval as its clock has it.
    """
    if read is None or ended_ms is None or read.told_at_ms is None or read.is_charging:
        return False
    return read.charged_until_ms is not None and read.charged_until_ms <= ended_ms + CLOCKS_AGREE_MS


def lease_interval(interval: Metered, now: Moment) -> Interval:
    """The interval as the arithmetic of leases takes it, in the time that it is metered in.

    The wall clock may have been set since it began: how far the books are ahead goes with it.
    """
    reached_ms = max(reach_ms(interval, now), interval.metered_to_ms)
    before = _total_micros(interval, interval.started_ms)
    return Interval(
        id=interval.id,
        started_ms=interval.rent_ms,
        posted_micros=before + interval.posted_micros,
        earliest_ms=interval.earliest_ms,
        ahead_ms=reached_ms - now.utc_ms,
    )


def _total_micros(interval: Metered, to_ms: int) -> int:
    return running_micros(interval.tariff, interval.rent_ms, to_ms)
