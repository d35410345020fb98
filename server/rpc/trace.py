"""W3C trace context: what a caller says of the trace that a call is part of."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_MOST_CHARACTERS = 512
"""Of each of the two; the standard has that many kept of `tracestate` at least."""


def trace_context(
    metadata: Iterable[tuple[str, str | bytes]] | None,
) -> tuple[tuple[str, str], ...]:
    """The `traceparent` and `tracestate` of a call, for the calls that are made for it.

    They go along as they are: this process adds no span. A parent that isn't one ends the trace, as
    the standard has it, and its state with it.
    """
    found = {
        key: value
        for key, value in metadata or ()
        if key in ("traceparent", "tracestate")
        and isinstance(value, str)
        and len(value) <= _MOST_CHARACTERS
    }
    if not _PARENT.fullmatch(found.get("traceparent", "")):
        return ()
    return tuple(sorted(found.items()))
