"""What the platform's clock said when an instance was last seen on, for a boot anew in between.

Revision ID: 20261201a
Revises: 20261125i
Create Date: 2026-12-01

"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261201a"
down_revision = "20261125i"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("power_intervals", sa.Column("seen_told_ms", sa.Integer(), nullable=True))
    op.add_column("power_intervals", sa.Column("seen_boot_id", sa.String(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
