"""A small GPU rental platform on this machine: the provider "local".

It is its own process with its own meter and shares no code with the rest of costguard, so that its
bill is an independent witness against the ledger. See README.md beside this file.
"""
