"""How the daemon reaches an instance: SSH with pinned keys, transfers, and one live stream."""
