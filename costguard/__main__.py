"""`python -m costguard` is the `costguard` command."""

import sys

from costguard.cli.main import main

sys.exit(main())
