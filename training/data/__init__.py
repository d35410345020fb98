"""Data sets: MovieLens or a user's own, validated and written in one schema."""
