"""The whole loop on this machine, told as five stories: finish, stall, idle, budget, crash."""
