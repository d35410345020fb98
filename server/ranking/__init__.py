"""The ranking service: orders a few hundred candidates."""
