"""Filters of candidates, one per file."""
