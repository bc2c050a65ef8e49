"""Alembic's entry: the same connection settings as the daemon's, one transaction a revision."""

from __future__ import annotations

from alembic import context

from costguard.store.database import engine_for
from costguard.store.models import Base


def run() -> None:
    """Run the pending revisions on the database that `costguard.store.migrate` names."""
    engine = engine_for(context.config.attributes["database"])
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
