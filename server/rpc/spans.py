"""Spans of the calls that are sampled.

The edge decides which are; a process follows the caller's flag. Calls that fail or are slow are
exported without it, as one span each. Nothing of OpenTelemetry is imported unless spans are
exported, and a call that isn't sampled costs a look at a variable where a span would begin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from vireo.server.errors import VireoError
from vireo.server.rpc.trace import CallTrace, Headers, Kind, current_call

if TYPE_CHECKING:
    # Pipelines are imported by programs that have no gRPC.
    import grpc

    from vireo.server.rpc.settings import RpcSettings
    from vireo.server.rpc.span_export import SpanExport

SLOW_SECONDS = 0.25
"""Time from which a unary call is traced even if it isn't sampled, as one span."""
_MAX_UNSAMPLED = 10
"""Maximum calls a second that are exported though they aren't sampled: in an outage all fail."""
_MAX_PARENTS = 32
"""Maximum messages of a batch that get a span of their own."""
_CLOSE_SECONDS = 1.0
_NO_SPAN: AbstractContextManager[None] = nullcontext()

_export: SpanExport | None = None


def start_export(settings: RpcSettings, kind: str, instance: str) -> None:
    """Export the spans of this process if the settings say where to.

    Args:
        settings: the process's.
        kind: what it is, for example "gateway".
        instance: its name.

    Raises:
        VireoError: OpenTelemetry isn't installed or whole, or a TLS file can't be read.
    """
    global _export  # one process exports to one collector
    if not settings.otlp_endpoint:
        return
    try:
        from vireo.server.rpc.span_export import SpanExport
    except ModuleNotFoundError as error:
        raise VireoError(
            "VIREO_OTLP_ENDPOINT needs OpenTelemetry: pip install 'vireo[tracing]', or leave it "
            "empty"
        ) from error
    except ImportError as error:
        # Whichever of the two was installed last owns the files that both have.
        raise VireoError(
            f"VIREO_OTLP_ENDPOINT: OpenTelemetry can't be imported ({error}), since xds-protos has "
            "replaced files of it by older ones; repair it with: pip install --force-reinstall "
            "--no-deps opentelemetry-proto"
        ) from error
    _export = SpanExport(settings.otlp_endpoint, settings.tls, kind, instance)


def end_export() -> None:
    """Export what is left, for a second at most; blocks."""
    global _export
    ending, _export = _export, None
    if ending is not None:
        ending.close(_CLOSE_SECONDS)


def span(name: str, kind: Kind = "internal") -> AbstractContextManager[None]:
    """Return a context whose work is a span of the current call, if that is sampled.

    Its exception, if one leaves it, is the span's error.
    """
    export = _export
    if export is None or not current_call().sampled:
        return _NO_SPAN
    return export.span(name, kind)


def ended(name: str, seconds: float) -> None:
    """Export a span of the current call, if it is sampled, that took so long and ends now."""
    export = _export
    if export is not None and current_call().sampled:
        export.ended(name, seconds)


def outgoing(headers: Headers) -> Headers:
    """Return the headers of a call made within a span, which becomes its parent."""
    export = _export
    if export is None or not current_call().sampled:
        return headers
    return export.outgoing(headers)


def current_traceparent() -> str:
    """Return the `traceparent` of what the current call causes; empty if it isn't sampled."""
    trace = current_call()
    if not trace.sampled:
        return ""
    if (export := _export) is None:
        return f"00-{trace.trace_id}-{trace.parent_id}-01"
    return dict(export.outgoing(()))["traceparent"]


def begin_server_span(method: str, trace: CallTrace, request_id: str) -> None:
    """Begin the span of a call that is sampled.

    Args:
        method: its path.
        trace: its trace, the current one.
        request_id: its id in logs.
    """
    if trace.sampled and (export := _export) is not None:
        export.begin_server(method, trace, request_id)


class Allowance:
    """How many more calls may be exported in this second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with all of it; `clock` returns seconds."""
        self._clock = clock
        self._second, self._left = -1, 0

    def take(self) -> bool:
        """Return whether there is one more, and use it up."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._left = second, _MAX_UNSAMPLED
        self._left -= 1
        return self._left >= 0


_unsampled = Allowance()


def end_server_span(
    method: str,
    trace: CallTrace,
    request_id: str,
    code: grpc.StatusCode,
    seconds: float,
    *,
    unary: bool,
) -> None:
    """End the span of a call; export one now if the call isn't sampled, but failed or was slow.

    Args:
        method: its path.
        trace: its trace.
        request_id: its id in logs.
        code: how it ended.
        seconds: how long it took.
        unary: whether it is a unary call: how long a stream lasts doesn't make it slow.
    """
    if (export := _export) is None:
        return
    if trace.span is not None:
        export.end_server(trace, code)
        return
    slow = unary and seconds >= SLOW_SECONDS
    if (slow or code in export.failures or trace.notes) and _unsampled.take():
        export.begin_server(method, trace, request_id, time.time_ns() - int(seconds * 1e9))
        export.end_server(trace, code)


@contextmanager
def consumer_spans(
    name: str, parents: Sequence[str], attributes: Mapping[str, str]
) -> Iterator[None]:
    """Make the work on a batch of messages a span in the trace of each that was sampled.

    Args:
        name: name of the spans.
        parents: the `traceparent` of each message; empty if it has none.
        attributes: attributes of each span.
    """
    export = _export
    sampled = () if export is None else [each for each in parents if each][:_MAX_PARENTS]
    if export is None or not sampled:
        yield
        return
    began = time.time_ns()
    try:
        yield
    except BaseException as error:  # also a cancellation: the batch isn't applied then
        export.consumed(name, sampled, attributes, began, error)
        raise
    export.consumed(name, sampled, attributes, began, None)
