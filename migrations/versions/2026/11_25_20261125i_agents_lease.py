"""Up to when an instance's agent was last granted its lease, for who stops the machine.

Revision ID: 20261125i
Revises: 20261124g
Create Date: 2026-11-25

"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261125i"
down_revision = "20261124g"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instances", sa.Column("agent_until_ms", sa.Integer(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
