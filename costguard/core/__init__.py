"""Pure decisions: money, tariffs, leases, guards and what to do next.

Nothing in here does I/O, reads a clock or draws a random number, and nothing imports the rest of
costguard: time comes in as a `Moment`, facts come in as a `Snapshot`, actions come out.
"""
