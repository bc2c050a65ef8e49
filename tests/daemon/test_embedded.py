from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.daemon.embedded import Embedded
from costguard.errors import UserError
from costguard.localcloud import launch, options

if TYPE_CHECKING:
    from pathlib import Path

BILLING = {
    "port": 0,
    "quantum_s": 60,
    "rounding": "per_clock",
    "minimum_s": 120,
    "minimum_charge": "0.01",
    "zone": "UTC",
    "discount": ["23:00-07:00=50", "2026-10-01=80"],
    "disk_price": 0.1,
}


def test_the_platform_bills_as_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rule of its command line; what is none of them is not handed on."""
    started: list[tuple[str, ...]] = []

    def start(home: Path, *words: str) -> launch.Running:
        started.append(("--home", str(home), *words))
        raise launch.LaunchError("no")

    monkeypatch.setattr(launch, "start", start)
    with pytest.raises(UserError):
        Embedded(tmp_path).provider({**BILLING, "poll_interval_s": 1})
    found = options.parse(started[0])
    assert found.quantum_s == 60
    assert found.disk_price_micros_per_hour == 100_000
    rules = found.rules
    assert (rules.rounding, rules.minimum_s, rules.minimum_micros) == ("per_clock", 120, 10_000)
    assert (rules.zone, len(rules.offers)) == ("UTC", 2)
