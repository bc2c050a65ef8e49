"""`python3 -m costguard.agent`, and the entry of `agent.pyz`."""

from __future__ import annotations

import sys

from costguard.agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
