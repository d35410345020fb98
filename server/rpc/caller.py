"""Who makes a call: limits are by caller."""

from __future__ import annotations

from vireo.server.rpc.reading import Context, Metadata

CALLER = "x-vireo-caller"
"""Metadata key: the subject of the caller's token, or its address, as the edge knows it."""
MAX_CALLERS = 10_000
"""Maximum callers that a limit tells apart, some 200 bytes each; the least recent are forgotten."""


def caller_of(context: Context) -> str:
    """Return who makes a call; empty if it didn't come through the edge."""
    return caller_in(context.invocation_metadata() or ())


def caller_in(metadata: Metadata) -> str:
    """Return who makes the call that has this metadata; see `caller_of`."""
    for key, value in metadata:
        if key == CALLER:
            return str(value)
    return ""
