"""Who makes a call: limits are by caller."""

from __future__ import annotations

from server.rpc.reading import Context

CALLER = "x-vireo-caller"
"""Metadata key: the subject of the caller's token, or its address, as the edge knows it."""


def caller_of(context: Context) -> str:
    """Return who makes a call; empty if it didn't come through the edge."""
    for key, value in context.invocation_metadata() or ():
        if key == CALLER:
            return str(value)
    return ""
