"""`python -m trainer bench`: this trainer and its peers, side by side on one card."""
