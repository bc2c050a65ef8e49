"""How the daemon reaches an instance: SSH with pinned keys, transfers, and one live stream."""

import sys

# paramiko takes in a whole task runner, 4 MiB of the daemon's memory, for `Match exec` in OpenSSH's
# config files, which are never read here; it does without where there is
# none, and None is how Python is told so.
sys.modules.setdefault("invoke", None)  # type: ignore[arg-type]
