"""Causes what can go wrong, one case after the other, under steady load; see docs/chaos.md."""
