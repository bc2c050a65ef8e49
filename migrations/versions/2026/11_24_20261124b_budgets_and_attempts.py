"""Caps set at the command line, and jobs that go on after a pause, stage by stage.

Revision ID: 20261124b
Revises: 20261124a
Create Date: 2026-11-24

"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124b"
down_revision = "20261124a"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("cap_micros", sa.Integer(), nullable=False),
        sa.Column("set_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "name", name="pk_budgets"),
    )
    for name in ("attempt", "first_seq"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.add_column(
        "instances",
        sa.Column("guest_stop", sa.String(), nullable=False, server_default="none"),
    )
    # The one platform there was until now, and its power-off from inside stops the meter.
    op.execute("UPDATE instances SET guest_stop = 'proven' WHERE provider = 'local'")
    op.add_column("leases", sa.Column("cut", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("collected", sa.Boolean(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("forecast_json", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("stage_since_ms", sa.Integer(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
