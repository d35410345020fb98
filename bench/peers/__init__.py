"""Other model servers around the same ranking; each runs in an environment of its own."""
