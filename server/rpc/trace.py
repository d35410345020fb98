"""W3C trace context of a call: for the calls made on its behalf, its log lines and its spans."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_SAMPLED = 0x01
_MAX_LENGTH = 512
"""Maximum characters of either; the standard requires at least as many of `tracestate`."""
_MAX_NOTES = 16
"""Maximum notes of a call: a batch of slates may fail ten thousand times."""
_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
"""What HTTP/2 carries as a header's value unchanged: printable ASCII without space around it."""

Metadata = Iterable[tuple[str, str | bytes]]
Headers = tuple[tuple[str, str], ...]
Kind = Literal["internal", "client", "producer"]
"""What a span within a call is."""


@dataclass(slots=True, eq=False)
class CallTrace:
    """The trace that a call belongs to; none if its id is empty."""

    trace_id: str = ""
    """32 hexadecimal digits."""
    parent_id: str = ""
    """16 of the caller's span."""
    headers: Headers = ()
    """`traceparent` and `tracestate` for the calls made on this call's behalf."""
    sampled: bool = False
    """Whether the caller records spans of the trace."""
    span: Any = None
    """The call's span, if this process exports one; see `vireo.server.rpc.spans`."""
    notes: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """What went wrong in the call, and the details of each."""

    @staticmethod
    def of(metadata: Metadata | None) -> CallTrace:
        """Return the trace that a call's metadata name."""
        headers = trace_context(metadata)
        if not headers:
            return CallTrace()
        _, trace_id, parent_id, flags = headers[0][1].split("-")[:4]
        return CallTrace(trace_id, parent_id, headers, sampled=bool(int(flags, 16) & _SAMPLED))

    @property
    def state(self) -> str:
        """The `tracestate`; empty if there is none."""
        return dict(self.headers).get("tracestate", "")


_NO_CALL = CallTrace()
_call: ContextVar[CallTrace] = ContextVar("call_trace", default=_NO_CALL)


def begin_call(metadata: Metadata | None) -> CallTrace:
    """Return the trace of the call with this metadata, which is the current one from now on."""
    trace = CallTrace.of(metadata)
    _call.set(trace)
    return trace


def current_call() -> CallTrace:
    """Return the trace of the call that is being answered; outside of one, that of none."""
    return _call.get()


def exemplar() -> dict[str, str] | None:
    """Return the trace id of the call that is being answered, as the exemplar of a metric.

    It is None outside of a call, and if the call's trace isn't sampled.
    """
    trace = _call.get()
    return {"trace_id": trace.trace_id} if trace.sampled else None


def note_failure(what: str, **details: str) -> None:
    """Record that something went wrong in the current call, so that its trace shows it.

    A call with a note is exported even if its trace isn't sampled: see
    `vireo.server.rpc.spans`.
    """
    trace = _call.get()
    if trace is not _NO_CALL and len(trace.notes) < _MAX_NOTES:
        trace.notes.append((what, details))


def add_trace_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
    """Add the current call's trace id to a log line, as a processor of structlog."""
    trace_id = _call.get().trace_id
    if trace_id:
        event["trace_id"] = trace_id
    return event


def sendable(value: object, max_length: int) -> TypeGuard[str]:
    """Return whether a value of a caller's metadata can be sent on.

    Anything else would fail the call that carries it, as if its sender were broken.
    """
    return isinstance(value, str) and len(value) <= max_length and bool(_SENDABLE.fullmatch(value))


def trace_context(metadata: Metadata | None) -> Headers:
    """Return the `traceparent` and `tracestate` of a call, in this order, if its metadata has them.

    Calls made on its behalf pass them on unchanged: a span of this process that is their parent
    replaces them where the calls are made. An invalid parent ends the trace, and its state, as the
    standard requires; what can't be sent on is left out.
    """
    parent = state = ""
    for key, value in metadata or ():
        if key == "traceparent" and sendable(value, _MAX_LENGTH):
            parent = value
        elif key == "tracestate" and sendable(value, _MAX_LENGTH):
            state = value
    if not _PARENT.fullmatch(parent):
        return ()
    headers = (("traceparent", parent),)
    return (*headers, ("tracestate", state)) if state else headers
