"""Instances that a job went on without, on a new one.

Revision ID: 20261124g
Revises: 20261124f
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124g"
down_revision = "20261124f"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("replaced_ms", sa.Integer(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
