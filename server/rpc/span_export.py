"""Makes spans with OpenTelemetry's SDK, and sends them to a collector off the path of calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import grpc
from opentelemetry import context as otel_context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from prometheus_client import Counter

from vireo.server.errors import VireoError
from vireo.server.rpc.settings import COLLECTOR, Endpoint
from vireo.server.rpc.tls import TlsFiles, tls_name
from vireo.server.rpc.trace import CallTrace, Headers, Kind

EXPORTED = Counter("vireo_trace_spans_exported", "Spans that the collector has received.")
DROPPED = Counter(
    "vireo_trace_spans_dropped",
    "Spans that were dropped: the queue was full (`queue`), or the collector was away or refused "
    "them (`collector`).",
    ["reason"],
)
_QUEUE_DROPS, _COLLECTOR_DROPS = DROPPED.labels("queue"), DROPPED.labels("collector")

_MAX_WAITING = 2048
"""Maximum spans that wait to be sent: some 8 MB."""
_MAX_BATCH = 256
_BATCH_SECONDS = 2.0
"""Maximum seconds for which a span waits for others to be sent with."""
_SEND_SECONDS = 5.0
"""Maximum seconds to send a batch, with retries."""


class SpanExport:
    """The spans of this process, and their way to a collector."""

    failures = (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
    """Statuses of failed calls, which are exported though they aren't sampled: those that
    OpenTelemetry's conventions call errors of a server, without UNIMPLEMENTED, which here is an
    operator's choice. Calls that are shed aren't among them: they have done nothing."""

    def __init__(self, endpoint: str, tls: TlsFiles | None, kind: str, instance: str) -> None:
        """Export to a collector, which needn't be there.

        Args:
            endpoint: `http://host:port`, or `https://host:port` with mutual TLS.
            tls: this process's files, for https.
            kind: what this process is, for example "gateway".
            instance: its name.

        Raises:
            VireoError: a TLS file can't be read.
        """
        resource = Resource.create(
            {"service.name": f"vireo-{kind}", "service.instance.id": instance}
        )
        # Whoever begins a span has decided that it is sampled.
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_BoundedProcessor(_CollectorExporter(endpoint, tls)))
        self._tracer = self._provider.get_tracer("vireo")

    def close(self, seconds: float) -> None:
        """Send what is left, for some seconds at most."""
        # The SDK itself would wait for half a minute.
        ending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(seconds)

    def begin_server(
        self, method: str, trace: CallTrace, request_id: str, began: int | None = None
    ) -> None:
        """Begin the span of a call; what the call does from now on is part of it.

        Args:
            method: the call's path.
            trace: its trace.
            request_id: its id in logs.
            began: when it began, nanoseconds since the epoch; None for now.
        """
        name = method.removeprefix("/")
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": name,
            "vireo.request_id": request_id,
        }
        trace.span = self._tracer.start_span(
            name, _parent(trace), SpanKind.SERVER, attributes, start_time=began
        )
        if began is None:
            # Never detached: the context is that of the call's own task.
            otel_context.attach(set_span_in_context(trace.span))

    def end_server(self, trace: CallTrace, code: grpc.StatusCode) -> None:
        """End the span of a call that ended with this status."""
        span: Span = trace.span
        for what, details in trace.notes:
            span.add_event(what, details)
        span.set_attribute("rpc.response.status_code", code.name)
        if code in self.failures:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def span(self, name: str, kind: Kind) -> AbstractContextManager[Any]:
        """Return a context whose work is a span within the current one."""
        return self._tracer.start_as_current_span(
            name, kind=SpanKind[kind.upper()], record_exception=False, set_status_on_exception=True
        )

    def ended(self, name: str, seconds: float) -> None:
        """Export a span within the current one that took so long and ends now."""
        now = time.time_ns()
        self._tracer.start_span(name, start_time=now - int(seconds * 1e9)).end(now)

    def outgoing(self, headers: Headers) -> Headers:
        """Return the headers of a call whose parent is the current span."""
        current = get_current_span().get_span_context()
        if not current.is_valid:
            return headers
        others = [each for each in headers if each[0] != "traceparent"]
        parent = f"00-{current.trace_id:032x}-{current.span_id:016x}-01"
        return (*others, ("traceparent", parent))

    def consumed(
        self,
        name: str,
        parents: Sequence[str],
        attributes: Mapping[str, str],
        began: int,
        error: BaseException | None,
    ) -> None:
        """Export a span for each message of a batch that was worked on from `began` until now."""
        ended = time.time_ns()
        for parent in parents:
            trace = CallTrace.of([("traceparent", parent)])
            if not trace.sampled:
                continue
            span = self._tracer.start_span(
                name, _parent(trace), SpanKind.CONSUMER, attributes, start_time=began
            )
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            span.end(ended)


def _parent(trace: CallTrace) -> otel_context.Context:
    """Return the context of what a caller's span caused; of a new trace if there is none."""
    if not trace.trace_id:
        return otel_context.Context()
    parent = SpanContext(
        int(trace.trace_id, 16),
        int(trace.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )
    return set_span_in_context(NonRecordingSpan(parent), otel_context.Context())


class _CollectorExporter(SpanExporter):
    """Sends spans to a collector, and counts those that it doesn't get.

    It is used by one thread, that of the processor.
    """

    def __init__(self, endpoint: str, tls: TlsFiles | None) -> None:
        self._endpoint = endpoint
        self._tls = tls if Endpoint.of(endpoint).secure else None
        self._stamp = self._tls.stamp() if self._tls else ()
        self._inner = self._open()
        self.room = threading.Semaphore(_MAX_WAITING)
        """Places of the spans that wait to be sent."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, which wait no longer."""
        self.room.release(len(spans))
        self._renew_if_changed()
        try:
            result = self._inner.export(spans)
        except Exception:
            # Whatever it was, these spans are lost. The SDK logs it.
            _COLLECTOR_DROPS.inc(len(spans))
            raise
        counter = EXPORTED if result is SpanExportResult.SUCCESS else _COLLECTOR_DROPS
        counter.inc(len(spans))
        return result

    def shutdown(self) -> None:
        """Close the channel."""
        self._inner.shutdown()

    def _open(self) -> OTLPSpanExporter:
        if self._tls is None:
            return OTLPSpanExporter(self._endpoint, timeout=_SEND_SECONDS)
        return OTLPSpanExporter(
            self._endpoint,
            credentials=self._tls.channel_credentials(),
            timeout=_SEND_SECONDS,
            channel_options=(("grpc.ssl_target_name_override", tls_name(COLLECTOR)),),
        )

    def _renew_if_changed(self) -> None:
        """Open the channel again once the certificate was renewed."""
        if self._tls is None:
            return
        try:
            stamp = self._tls.stamp()
            renewed = self._open() if stamp != self._stamp else None
        except (OSError, VireoError):
            return  # the files are being replaced
        if renewed is not None:
            self._inner.shutdown()
            self._inner, self._stamp = renewed, stamp


class _BoundedProcessor(BatchSpanProcessor):
    """A queue that refuses new spans if it is full, instead of losing old ones without a count."""

    def __init__(self, exporter: _CollectorExporter) -> None:
        super().__init__(
            exporter,
            # The exporter counts, so that this bound is never met.
            max_queue_size=2 * _MAX_WAITING,
            schedule_delay_millis=1000 * _BATCH_SECONDS,
            max_export_batch_size=_MAX_BATCH,
        )
        self._room = exporter.room

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that has ended."""
        if self._room.acquire(blocking=False):
            super().on_end(span)
        else:
            _QUEUE_DROPS.inc()
