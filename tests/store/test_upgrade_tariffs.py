"""Databases of earlier schemas, with rows in them, brought to the newest."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import select

from costguard.core.meter import anchored
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Tariff
from costguard.daemon.load import metered
from costguard.store.database import Store
from costguard.store.migrate import migrations_dir, upgrade
from costguard.store.models import Instance, PowerInterval
from costguard.store.tariffs import disk_tariff_of, set_tariff, tariff_of

if TYPE_CHECKING:
    from pathlib import Path

FIRST = "20261124a"
ROWS = """
INSERT INTO jobs (id, version, name, project, spec_json, submit_key, created_ms, state, wish,
                  breach, cap_micros, hold_micros, stage, last_seq)
    VALUES (1, 0, 'kefu', 'p', '{}', 'k', 0, 'training', 'run', 0, 80000000, 0, 0, 0);
INSERT INTO instances (id, job_id, provider, provider_id, tag, price_micros_per_hour, quantum_s,
                       paused_micros_per_hour, power, stop_calls, stop_accepted, was_on)
    VALUES (1, 1, 'local', 'i-1', 't', 15000000, 60, 100000, 'running', 0, 0, 1);
INSERT INTO power_intervals (id, instance_id, job_id, kind, price_micros_per_hour, quantum_s,
                             started_ms, anchor_utc_ms, anchor_boot_ms, anchor_boot_id, seen_to_ms,
                             metered_to_ms, ended_ms, posted_micros)
    VALUES (1, 1, 1, 'running', 15000000, 60, 1000, 2000, 2000, 'b', 5000, 5000, NULL, 250000),
           (2, 1, 1, 'disk', 100000, 1, 0, 2000, 2000, 'b', 5000, 5000, NULL, 139);
"""


@pytest.fixture
def old_database(tmp_path: Path) -> Path:
    """A database as the first release made and filled it."""
    path = tmp_path / "costguard.db"
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.set_main_option("recursive_version_locations", "true")
    config.attributes["database"] = path
    command.upgrade(config, FIRST)
    with closing(sqlite3.connect(path)) as plain:
        plain.executescript(ROWS)
    return path


def test_rows_from_before_whole_rules_go_on_under_their_price_and_quantum(
    old_database: Path,
) -> None:
    """Nothing is lost, nothing is guessed."""
    upgrade(old_database)
    store = Store(old_database)
    with store.read() as session:
        instance = session.scalars(select(Instance)).one()
        running, disk = session.scalars(select(PowerInterval).order_by(PowerInterval.id))
        assert tariff_of(instance) == Tariff(15_000_000, 60, 100_000)
        open_now = metered(running)
        assert open_now.tariff == Tariff(15_000_000, 60)
        assert (open_now.rent_ms, open_now.earliest_ms, open_now.posted_micros) == (
            1_000,
            None,
            250_000,
        )
        assert disk_tariff_of(disk) == Tariff(0, 1, 100_000)
    store.close()


def test_an_upgraded_database_takes_whole_rules(old_database: Path) -> None:
    """And gives them back as they were."""
    rule = Tariff(20_000_000, 3_600, by_clock=True, minimum_s=60, free_s=600)
    upgrade(old_database)
    store = Store(old_database)
    with store.write() as session:
        instance = session.scalars(select(Instance)).one()
        set_tariff(instance, rule)
    with store.read() as session:
        instance = session.scalars(select(Instance)).one()
        assert tariff_of(instance) == rule
        assert (instance.price_micros_per_hour, instance.quantum_s) == (20_000_000, 3_600)
    store.close()


def test_an_interval_from_before_the_platforms_clock_was_kept_goes_by_ours(
    old_database: Path,
) -> None:
    """Nothing was told then: across a boot anew it counts on by the wall clock, as it did."""
    upgrade(old_database)
    store = Store(old_database)
    now = Moment(65_000, 100, "b2")
    told = PowerRead(Power.RUNNING, now, told_at_ms=9_000_000)
    with store.read() as session:
        for row in session.scalars(select(PowerInterval)):
            assert anchored(metered(row), told, now) == now
    store.close()
