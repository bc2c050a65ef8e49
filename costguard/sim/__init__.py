"""The simulator: costguard's own code in a seeded world that tries to break the cap.

Nothing waits, nothing runs beside, nothing reads a clock: a world has one `random.Random` and one
clock that stands still until it is moved, so that a seed replays exactly, on any machine.

- `clock`, `faults`, `scenario`: time, chance, and what a seed draws: platform, jobs, troubles.
- `cloud`, `adapter`: the rental platform with a meter of its own, and the adapter to it.
- `script`, `guest`, `line`: what a training does, the agent in the machine, the line to it.
- `wider`: what is drawn on top since the second edition: whole tariffs, projects' caps, resumes,
  visits.
- `world`, `judge`: a world's hours, and the verdict on each of its ticks by the platform's figures;
  `audit` and `ceiling` hold the books to them from below and above, `promise` the printed bound.
- `real` is tier 2, the real daemon on a real SQLite file; `lean` is tier 1, the pure core over
  `books`, a store in memory.
- `run` plays seeds, in one process or several, and makes the document.
"""
