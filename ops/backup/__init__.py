"""Backups: what can't be made again, in a bucket of its own, and how it comes back."""
