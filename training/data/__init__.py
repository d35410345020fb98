"""Data sets: MovieLens or a user's own, checked and written in one form."""
