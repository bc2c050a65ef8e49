"""What is remembered: SQLAlchemy models and sessions on one SQLite file, and the ledger.

The schema is made by the Alembic scripts in `migrations/` alone; the models here describe it and
`tests/store/test_schema.py` holds the two against each other. The daemon is the only writer.
"""
