"""Capacity: what measured costs come to for a number of daily viewers; writes docs/capacity.md."""
