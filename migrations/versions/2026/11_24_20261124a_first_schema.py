"""The first schema: jobs, instances, intervals, leases, a ledger.

Revision ID: 20261124a
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124a"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "commands",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("do", sa.String(), nullable=False),
        sa.Column("args_json", sa.String(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("result_json", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_commands"),
        sa.UniqueConstraint("key", name="uq_commands_key"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("spec_json", sa.String(), nullable=False),
        sa.Column("submit_key", sa.String(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("wish", sa.String(), nullable=False),
        sa.Column("pause_reason", sa.String(), nullable=True),
        sa.Column("breach", sa.Boolean(), nullable=False),
        sa.Column("cap_micros", sa.Integer(), nullable=False),
        sa.Column("hold_micros", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(), nullable=True),
        sa.Column("launched_ms", sa.Integer(), nullable=True),
        sa.Column("exit_json", sa.String(), nullable=True),
        sa.Column("verdict_text", sa.String(), nullable=True),
        sa.Column("verdict_json", sa.String(), nullable=True),
        sa.Column("verdict_utc_ms", sa.Integer(), nullable=True),
        sa.Column("verdict_boot_ms", sa.Integer(), nullable=True),
        sa.Column("verdict_boot_id", sa.String(), nullable=True),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("retry_at_ms", sa.Integer(), nullable=True),
        sa.Column("closed_ms", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("submit_key", name="uq_jobs_submit_key"),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index("ix_jobs_name", ["name"], unique=False)
        batch_op.create_index("ix_jobs_project", ["project"], unique=False)

    op.create_table(
        "meta",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("files_json", sa.String(), nullable=False),
        sa.Column("seen_ms", sa.Integer(), nullable=False),
        sa.Column("pulled_ms", sa.Integer(), nullable=True),
        sa.Column("path", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_artifacts_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
    )
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.create_index("ix_artifacts_job_id", ["job_id"], unique=False)

    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("data_json", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_job_id", ["job_id"], unique=False)
        batch_op.create_index("ix_events_kind", ["kind"], unique=False)

    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=True),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("gpu", sa.String(), nullable=True),
        sa.Column("price_micros_per_hour", sa.Integer(), nullable=False),
        sa.Column("quantum_s", sa.Integer(), nullable=False),
        sa.Column("paused_micros_per_hour", sa.Integer(), nullable=False),
        sa.Column("power", sa.String(), nullable=False),
        sa.Column("host_key", sa.String(), nullable=True),
        sa.Column("last_call_utc_ms", sa.Integer(), nullable=True),
        sa.Column("last_call_boot_ms", sa.Integer(), nullable=True),
        sa.Column("last_call_boot_id", sa.String(), nullable=True),
        sa.Column("stop_calls", sa.Integer(), nullable=False),
        sa.Column("stop_accepted", sa.Boolean(), nullable=False),
        sa.Column("was_on", sa.Boolean(), nullable=False),
        sa.Column("started_call_ms", sa.Integer(), nullable=True),
        sa.Column("created_ms", sa.Integer(), nullable=True),
        sa.Column("work_dir", sa.String(), nullable=True),
        sa.Column("timer_at_ms", sa.Integer(), nullable=True),
        sa.Column("absent_since_ms", sa.Integer(), nullable=True),
        sa.Column("stopped_seen_ms", sa.Integer(), nullable=True),
        sa.Column("released_ms", sa.Integer(), nullable=True),
        sa.Column("bill_micros", sa.Integer(), nullable=True),
        sa.Column("bill_read_ms", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_instances_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("tag", name="uq_instances_tag"),
    )
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.create_index("ix_instances_job_id", ["job_id"], unique=False)

    op.create_table(
        "intents",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("closed_ms", sa.Integer(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_intents_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_intents"),
        sa.UniqueConstraint("key", name="uq_intents_key"),
    )
    with op.batch_alter_table("intents", schema=None) as batch_op:
        batch_op.create_index("ix_intents_job_id", ["job_id"], unique=False)

    op.create_table(
        "leases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_utc_ms", sa.Integer(), nullable=False),
        sa.Column("started_boot_ms", sa.Integer(), nullable=False),
        sa.Column("end_utc_ms", sa.Integer(), nullable=False),
        sa.Column("end_boot_ms", sa.Integer(), nullable=False),
        sa.Column("armed_end_utc_ms", sa.Integer(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.Column("latency_ms", sa.Integer(), nullable=False),
        sa.Column("months", sa.String(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_leases_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_leases"),
    )
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.create_index("ix_leases_job_id", ["job_id"], unique=False)

    op.create_table(
        "telemetry",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=False),
        sa.Column("data_json", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_telemetry_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "stage", "seq", name="pk_telemetry"),
    )
    with op.batch_alter_table("telemetry", schema=None) as batch_op:
        batch_op.create_index("ix_telemetry_kind", ["kind"], unique=False)

    op.create_table(
        "power_intervals",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("price_micros_per_hour", sa.Integer(), nullable=False),
        sa.Column("quantum_s", sa.Integer(), nullable=False),
        sa.Column("started_ms", sa.Integer(), nullable=False),
        sa.Column("anchor_utc_ms", sa.Integer(), nullable=False),
        sa.Column("anchor_boot_ms", sa.Integer(), nullable=False),
        sa.Column("anchor_boot_id", sa.String(), nullable=False),
        sa.Column("seen_to_ms", sa.Integer(), nullable=False),
        sa.Column("metered_to_ms", sa.Integer(), nullable=False),
        sa.Column("ended_ms", sa.Integer(), nullable=True),
        sa.Column("posted_micros", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_power_intervals_instance_id_instances"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_power_intervals_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_power_intervals"),
    )
    with op.batch_alter_table("power_intervals", schema=None) as batch_op:
        batch_op.create_index("ix_power_intervals_instance_id", ["instance_id"], unique=False)
        batch_op.create_index("ix_power_intervals_job_id", ["job_id"], unique=False)

    op.create_table(
        "power_reads",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("power", sa.String(), nullable=False),
        sa.Column("begun_utc_ms", sa.Integer(), nullable=False),
        sa.Column("begun_boot_ms", sa.Integer(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_power_reads_instance_id_instances"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_power_reads"),
    )
    with op.batch_alter_table("power_reads", schema=None) as batch_op:
        batch_op.create_index("ix_power_reads_instance_id", ["instance_id"], unique=False)

    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("month", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("amount_micros", sa.Integer(), nullable=False),
        sa.Column("covered_micros", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.Integer(), nullable=True),
        sa.Column("interval_id", sa.Integer(), nullable=True),
        sa.Column("from_ms", sa.Integer(), nullable=True),
        sa.Column("to_ms", sa.Integer(), nullable=True),
        sa.Column("stage", sa.Integer(), nullable=True),
        sa.Column("phase", sa.String(), nullable=True),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("previous_hash", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.CheckConstraint("amount_micros >= 0 OR kind = 'adjust'", name="ck_ledger_sign"),
        sa.CheckConstraint(
            "kind IN ('reserve', 'charge', 'settle', 'adjust')", name="ck_ledger_kind"
        ),
        sa.CheckConstraint(
            "covered_micros BETWEEN 0 AND max(amount_micros, 0)", name="ck_ledger_covered"
        ),
        sa.ForeignKeyConstraint(
            ["interval_id"], ["power_intervals.id"], name="fk_ledger_interval_id_power_intervals"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_ledger_job_id_jobs"),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name="fk_ledger_lease_id_leases"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
        sa.UniqueConstraint("hash", name="uq_ledger_hash"),
        sa.UniqueConstraint("key", name="uq_ledger_key"),
    )
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_interval_id", ["interval_id"], unique=False)
        batch_op.create_index("ix_ledger_job_id", ["job_id"], unique=False)
        batch_op.create_index("ix_ledger_lease_id", ["lease_id"], unique=False)
        batch_op.create_index("ix_ledger_month", ["month"], unique=False)
        batch_op.create_index("ix_ledger_project", ["project"], unique=False)

    for table in ("ledger", "commands"):
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def downgrade() -> None:
    raise RuntimeError("costguard's books are not downgraded; restore a backup instead")
