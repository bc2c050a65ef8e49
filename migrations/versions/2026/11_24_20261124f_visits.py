"""Visits: an ended job's instance switched on for a person, for a while.

Revision ID: 20261124f
Revises: 20261124e
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124f"
down_revision = "20261124e"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "visits",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("length_ms", sa.Integer(), nullable=False),
        sa.Column("asked_ms", sa.Integer(), nullable=False),
        sa.Column("until_utc_ms", sa.Integer(), nullable=True),
        sa.Column("until_boot_ms", sa.Integer(), nullable=True),
        sa.Column("until_boot_id", sa.String(), nullable=True),
        sa.Column("heard_utc_ms", sa.Integer(), nullable=False),
        sa.Column("heard_boot_ms", sa.Integer(), nullable=False),
        sa.Column("heard_boot_id", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=True),
        sa.Column("closed_ms", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_visits_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_visits"),
    )
    with op.batch_alter_table("visits", schema=None) as batch_op:
        batch_op.create_index("ix_visits_job_id", ["job_id"], unique=False)


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
