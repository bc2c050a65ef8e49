"""Sums of the ledger beside it, kept by the database itself; stops that a person attests.

Revision ID: 20261124c
Revises: 20261124b
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124c"
down_revision = "20261124b"
branch_labels = None
depends_on = None

KEY = (
    "job_id",
    "project",
    "month",
    "kind",
    "lease_id",
    "interval_id",
    "stage",
    "phase",
    "slot",
)
# What stands for "none" in a key has to be a value: to SQL no two NULLs are the same.
FILL = """
INSERT INTO ledger_sums
SELECT job_id, project, month, kind, coalesce(lease_id, 0), coalesce(interval_id, 0),
       coalesce(stage, -1), coalesce(phase, ''),
       CASE WHEN interval_id IS NULL THEN 0 ELSE coalesce(to_ms, at_ms) / 900000 END,
       min(id), count(*), sum(amount_micros), sum(covered_micros)
FROM ledger GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""
KEEP = """
CREATE TRIGGER ledger_sums_add AFTER INSERT ON ledger BEGIN
INSERT INTO ledger_sums
VALUES (NEW.job_id, NEW.project, NEW.month, NEW.kind, coalesce(NEW.lease_id, 0),
        coalesce(NEW.interval_id, 0), coalesce(NEW.stage, -1), coalesce(NEW.phase, ''),
        CASE WHEN NEW.interval_id IS NULL THEN 0
             ELSE coalesce(NEW.to_ms, NEW.at_ms) / 900000 END,
        NEW.id, 1, NEW.amount_micros, NEW.covered_micros)
ON CONFLICT (job_id, project, month, kind, lease_id, interval_id, stage, phase, slot)
DO UPDATE SET entries = entries + 1,
              amount_micros = amount_micros + excluded.amount_micros,
              covered_micros = covered_micros + excluded.covered_micros;
END
"""


def upgrade() -> None:
    op.create_table(
        "ledger_sums",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("month", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("lease_id", sa.Integer(), nullable=False),
        sa.Column("interval_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("first_id", sa.Integer(), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("amount_micros", sa.Integer(), nullable=False),
        sa.Column("covered_micros", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_ledger_sums_job_id_jobs"),
        sa.PrimaryKeyConstraint(*KEY, name="pk_ledger_sums"),
    )
    with op.batch_alter_table("ledger_sums", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_sums_project", ["project"], unique=False)
        batch_op.create_index("ix_ledger_sums_month", ["month"], unique=False)
        batch_op.create_index("ix_ledger_sums_lease_id", ["lease_id"], unique=False)
        batch_op.create_index("ix_ledger_sums_interval_id", ["interval_id"], unique=False)
    op.execute(FILL)
    op.execute(KEEP)

    # What was paid after a job's last step is looked up by job and time, not by job alone.
    op.create_index("ix_ledger_job_id_to_ms", "ledger", ["job_id", "to_ms"], unique=False)
    op.drop_index("ix_ledger_job_id", table_name="ledger")
    op.create_index("ix_leases_state", "leases", ["state"], unique=False)

    op.add_column("instances", sa.Column("attested_stop_ms", sa.Integer(), nullable=True))
    op.add_column("instances", sa.Column("attested_at_ms", sa.Integer(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
