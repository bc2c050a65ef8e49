"""What `make bench` measures; figures, never assertions."""
