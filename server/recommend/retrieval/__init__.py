"""Retrieval: a few hundred relevant videos of all, from several sources."""
