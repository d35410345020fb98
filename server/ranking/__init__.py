"""The ranking service: the order of a few hundred candidates."""
