from __future__ import annotations

from datetime import datetime

import pytest

from costguard.localcloud import meter
from costguard.localcloud.options import parse
from costguard.localcloud.rules import Offer, Rules, parse_offer

YUAN = 1_000_000
HOUR_MS = 3_600_000
NIGHT = Rules(offers=(Offer(50, 23 * 3_600, 7 * 3_600),))


def at(text: str) -> int:
    """UTC ms of a time in Shanghai on 2026-11-25, or of a date and time."""
    full = text if "T" in text else f"2026-11-25T{text}"
    return int(datetime.fromisoformat(f"{full}+08:00").timestamp()) * 1_000


def lines(rules: Rules, quantum_s: int, start: str, end: str) -> list[tuple[int, int]]:
    """Quanta and yuan per hour of each line at a list price of 20 yuan."""
    interval = meter.close(meter.open_interval(at(start), quantum_s, 20 * YUAN, rules), at(end))
    made = meter.compute_lines("x", interval, at(end) + 48 * HOUR_MS)
    return [(line.quanta, line.price_micros_per_hour // YUAN) for line in made]


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [("10:40", "11:00", 1), ("10:40", "11:01", 2), ("10:00", "11:00", 1), ("10:59", "13:01", 4)],
)
def test_on_the_clock_an_hour_is_the_clocks(start: str, end: str, hours: int) -> None:
    """From 10:40 to 11:01 are two hours."""
    assert lines(Rules("per_clock"), 3_600, start, end) == [(hours, 20)]
    assert lines(Rules("per_clock"), 3_600, start, start) == [(0, 20)]


def test_a_night_has_lines_of_its_own() -> None:
    """One for each price in force."""
    assert lines(NIGHT, 1, "22:00", "2026-11-26T08:00") == [
        (3_600, 20),
        (8 * 3_600, 10),
        (3_600, 20),
    ]
    assert lines(NIGHT, 3_600, "22:30", "2026-11-26T00:00") == [(1, 20), (1, 10)]


def test_a_holiday_is_cheap_all_day_and_the_dearer_offer_holds() -> None:
    """A date is an offer too."""
    both = Rules(offers=(*NIGHT.offers, Offer(80, day="2026-11-26")))
    assert lines(both, 3_600, "22:00", "2026-11-26T02:00") == [(1, 20), (1, 10), (2, 16)]


@pytest.mark.parametrize(
    ("rules", "lasts_ms", "micros"),
    [
        (Rules(minimum_s=60), 0, 0),
        (Rules(minimum_s=60), 1, 600_000),
        (Rules(minimum_s=60), 61_000, 610_000),
        (Rules(minimum_micros=15_000), 1, 15_000),
        (Rules(minimum_micros=15_000), 0, 0),
        (Rules(minimum_micros=15_000), 2_000, 20_000),
    ],
)
def test_a_start_costs_its_minimum(rules: Rules, lasts_ms: int, micros: int) -> None:
    """In seconds or in yuan; without a start nothing."""
    interval = meter.open_interval(at("10:00"), 1, 36 * YUAN, rules)
    (line,) = meter.compute_lines("x", interval, at("10:00") + lasts_ms)
    assert line.amount_micros == micros


def test_a_minimum_goes_by_the_first_price_and_stands_on_the_last_line() -> None:
    """Known at the start, whatever the price does then."""
    interval = meter.open_interval(at("10:00"), 1, 36 * YUAN, Rules(minimum_s=60))
    interval = meter.reprice(interval, at("10:00") + 10_000, 72 * YUAN)
    amounts = [
        line.amount_micros for line in meter.compute_lines("x", interval, at("10:00") + 20_000)
    ]
    assert amounts == [100_000, 500_000]


def test_rules_survive_the_store_and_old_documents_have_the_usual_ones() -> None:
    """The platform may be restarted, and updated."""
    from costguard.localcloud.state import Instance  # one test's need

    texts = ("id", "name", "tag", "gpu", "image", "region", "ssh_public_key", "host_private_key")
    offers = (Offer(50, 0, 60), Offer(80, day="2026-10-01"))
    made = Instance(
        **dict.fromkeys((*texts, "host_key", "guest_token", "work_dir"), "x"),  # type: ignore[arg-type]
        gpu_count=1,
        created_at_ms=0,
        price_micros_per_hour=15 * YUAN,
        disk_price_micros_per_hour=0,
        quantum_s=3_600,
        rules=Rules("per_clock", 60, 10_000, "UTC", offers),
    )
    made.open_meter(5)
    document = made.to_document()
    assert Instance.from_document(document) == made
    del document["rules"], document["intervals"][0]["rules"]
    old = Instance.from_document(document)
    assert (old.rules, old.intervals[0].rules) == (Rules(), Rules())


def test_the_command_line_names_every_rule() -> None:
    """As the platform is started."""
    words = ["--quantum-s", "60", "--rounding", "per_clock", "--minimum-s", "120"]
    words += ["--minimum-charge", "0.01", "--zone", "UTC"]
    words += ["--discount", "23:00-07:00=50", "--discount", "2026-10-01=80", "00:00-24:00=90"]
    offers = (Offer(50, 82_800, 25_200), Offer(80, day="2026-10-01"), Offer(90, 0, 86_400))
    assert parse(["--home", "/h", *words]).rules == Rules("per_clock", 120, 10_000, "UTC", offers)
    assert parse(["--home", "/h"]).rules == Rules()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounding", "up"], "invalid choice"),
        (["--rounding", "per_clock", "--quantum-s", "7"], "divide the hour"),
        (["--minimum-s", "-1"], "whole number"),
        (["--minimum-charge", "much"], "not an amount"),
        (["--zone", "Asia/Shanghia"], "no time zone"),
        (["--discount", "23:00-07:00"], "no percentage"),
        (["--discount", "23:00-07:00=half"], "no percentage"),
        (["--discount", "night=50"], "neither"),
        (["--discount", "2026-02-30=50"], "neither"),
        (["--discount", "24:00-07:00=50"], "beyond the day"),
        (["--discount", "07:00-24:01=50"], "beyond the day"),
    ],
)
def test_a_wrong_rule_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the option it stands in."""
    with pytest.raises(SystemExit) as ended:
        parse(["--home", "/h", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert words[0] in error


def test_an_offer_is_read_as_it_is_written() -> None:
    """Times of day, over midnight too, or a date."""
    assert parse_offer("08:30-09:00=0") == Offer(0, 30_600, 32_400)
