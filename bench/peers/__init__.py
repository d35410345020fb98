"""Other model servers around the same ranking, each for an environment of its own."""
