"""Small wrongs planted in the core's money arithmetic, one at a time, for its tests to find."""
