"""Requests that can't be right, in great number, and what becomes of the servers."""
