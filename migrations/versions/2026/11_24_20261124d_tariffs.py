"""Whole billing rules beside the price: discounts, minimum, rounding on the clock, price changes.

Revision ID: 20261124d
Revises: 20261124c

Rows from before keep None: their price and quantum are their whole rule.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124d"
down_revision = "20261124c"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instances", sa.Column("tariff_json", sa.String(), nullable=True))
    op.add_column("power_intervals", sa.Column("tariff_json", sa.String(), nullable=True))
    op.add_column("power_intervals", sa.Column("origin_ms", sa.Integer(), nullable=True))
    op.add_column("power_intervals", sa.Column("earliest_ms", sa.Integer(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
