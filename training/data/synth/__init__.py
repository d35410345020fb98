"""Synthetic data sets of viewers and videos, of any size, reproducible by seed."""
