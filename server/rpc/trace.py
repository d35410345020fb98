"""W3C trace context of a call, for the calls made on its behalf."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TypeGuard

_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_MAX_LENGTH = 512
"""Maximum characters of either; the standard requires at least as many of `tracestate`."""
_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
"""What HTTP/2 carries as a header's value unchanged: printable ASCII without space around it."""

_sampled: ContextVar[str] = ContextVar("sampled_trace_id", default="")


def sampled_trace_id() -> str:
    """Return the trace id of the call that is being answered: 32 hexadecimal digits.

    It is empty outside of a call, and if the call's trace isn't sampled.
    """
    return _sampled.get()


def sendable(value: object, max_length: int) -> TypeGuard[str]:
    """Return whether a value of a caller's metadata can be sent on.

    Anything else would fail the call that carries it, as if its sender were broken.
    """
    return isinstance(value, str) and len(value) <= max_length and bool(_SENDABLE.fullmatch(value))


def trace_context(
    metadata: Iterable[tuple[str, str | bytes]] | None,
) -> tuple[tuple[str, str], ...]:
    """Return the `traceparent` and `tracestate` of a call, for the calls made on its behalf.

    They are passed on unchanged: this process adds no span. An invalid parent ends the trace, and
    its state, as the standard requires; what can't be sent on is left out.
    """
    found = {
        key: value
        for key, value in metadata or ()
        if key in ("traceparent", "tracestate") and sendable(value, _MAX_LENGTH)
    }
    if not _PARENT.fullmatch(found.get("traceparent", "")):
        return ()
    return tuple(sorted(found.items()))
