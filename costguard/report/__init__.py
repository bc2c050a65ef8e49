"""The documents that a person and a script read: made from the ledger and stored observations."""
