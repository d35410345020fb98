"""A collector of traces that keeps what it gets, by OTLP/gRPC."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from cryptography.x509.oid import ExtendedKeyUsageOID
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from vireo.server.rpc.settings import COLLECTOR
from vireo.server.rpc.tls import tls_name
from vireo.server.security.certificates import Authority, certificate_pem

_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Span:
    """A span as a collector gets it."""

    service: str
    """Kind of the process, for example "vireo-gateway"."""
    name: str
    kind: str
    """For example "SERVER"."""
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    failed: bool
    seconds: float
    attributes: dict[str, str]
    events: tuple[str, ...]


@dataclass
class OtlpSink(trace_service_pb2_grpc.TraceServiceServicer):
    """What has come so far."""

    port: int = 0
    refuses: bool = False
    """Whether it answers PERMISSION_DENIED."""
    hangs_until: threading.Event | None = None
    """Answers once this is set."""
    asked: threading.Event = field(default_factory=threading.Event)
    """Set once anything has come."""
    spans: list[Span] = field(default_factory=list)
    _came: threading.Condition = field(default_factory=threading.Condition)

    @property
    def endpoint(self) -> str:
        """Where it listens, in plaintext."""
        return f"http://127.0.0.1:{self.port}"

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> Any:  # noqa: N802
        """Keep spans."""
        self.asked.set()
        if self.hangs_until is not None:
            self.hangs_until.wait(_WAIT_SECONDS)
        if self.refuses:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")
        with self._came:
            for resource in request.resource_spans:
                service = _texts(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_span(service, each) for each in scope.spans]
            self._came.notify_all()
        return pb.ExportTraceServiceResponse()

    def wait(self, done: Callable[[Sequence[Span]], bool]) -> list[Span]:
        """Return the spans once `done` says that all have come."""
        ends = time.monotonic() + _WAIT_SECONDS
        with self._came:
            while not done(self.spans):
                left = ends - time.monotonic()
                assert left > 0, f"missing; {len(self.spans)} came:\n{listed(self.spans)}"
                self._came.wait(left)
            return list(self.spans)

    def trace(self, trace_id: str, count: int) -> list[Span]:
        """Return the spans of a trace once there are so many."""
        found = self.wait(lambda spans: sum(each.trace_id == trace_id for each in spans) >= count)
        return [each for each in found if each.trace_id == trace_id]


def listed(spans: Sequence[Span]) -> str:
    """Return spans as a text, one a line."""
    return "\n".join(
        f"{each.service} {each.kind} {each.name} {each.span_id} < {each.parent_id or 'root'}"
        for each in spans
    )


@contextmanager
def running_otlp_sink(
    credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> Iterator[OtlpSink]:
    """A sink that listens on a port, by default a free one; by TLS if there are credentials."""
    sink = OtlpSink()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(sink, server)  # type: ignore[no-untyped-call]
    if credentials is None:
        sink.port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        sink.port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield sink
    finally:
        server.stop(0).wait()


_CALLER = "b7ad6b7169203331"
_STAGES = ("features", "retrieval", "ranking")
_SLATE = {
    "edge": ("vireo-envoy", "SERVER", "caller"),
    "to the gateway": ("vireo-envoy", "CLIENT", "edge"),
    "gateway": ("vireo-gateway", "SERVER", "to the gateway"),
    "features": ("vireo-gateway", "INTERNAL", "gateway"),
    **{
        hop: place
        for stage, kind in (("retrieval", "candidate"), ("ranking", "ranking"))
        for hop, place in (
            (stage, ("vireo-gateway", "CLIENT", "gateway")),
            (f"envoy before {kind}", ("vireo-envoy", "SERVER", stage)),
            (f"to {kind}", ("vireo-envoy", "CLIENT", f"envoy before {kind}")),
            (f"{kind} pod", (f"vireo-{kind}", "SERVER", f"to {kind}")),
            (f"stage of {kind}", (f"vireo-{kind}", "INTERNAL", f"{kind} pod")),
        )
    },
}
"""Service, kind and parent of each hop of a slate."""
_EVENT = {
    "edge": ("vireo-envoy", "SERVER", "caller"),
    "to the gateway": ("vireo-envoy", "CLIENT", "edge"),
    "gateway": ("vireo-gateway", "SERVER", "to the gateway"),
    "append": ("vireo-gateway", "PRODUCER", "gateway"),
    "apply": ("vireo-consumer", "CONSUMER", "append"),
}


def sampled() -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a new trace's id, and metadata of a call that is sampled."""
    trace_id = secrets.token_hex(16)
    return trace_id, (("traceparent", f"00-{trace_id}-{_CALLER}-01"),)


def check_slate_trace(sink: OtlpSink, trace_id: str) -> None:
    """Wait until a trace has each hop of a slate below the right one.

    Args:
        sink: what got it.
        trace_id: the trace's.
    """
    spans = sink.wait(lambda spans: not _missing(spans, trace_id, _SLATE))
    found = [each for each in spans if each.trace_id == trace_id]
    strangers = {each.parent_id for each in found} - {each.span_id for each in found} - {_CALLER}
    assert not strangers, listed(found)


def check_event_trace(sink: OtlpSink, trace_id: str) -> None:
    """Wait until a trace has each hop of an event, down to the consumer."""
    sink.wait(lambda spans: not _missing(spans, trace_id, _EVENT))


def _missing(
    spans: Sequence[Span], trace_id: str, hops: Mapping[str, tuple[str, str, str]]
) -> list[str]:
    """Return the hops that a trace doesn't have (yet) below the right parent."""
    found = {"caller": {_CALLER}}
    for hop, (service, kind, parent) in hops.items():
        named = hop if hop in _STAGES and service == "vireo-gateway" else ""
        found[hop] = {
            each.span_id
            for each in spans
            if (each.trace_id, each.service, each.kind) == (trace_id, service, kind)
            and each.parent_id in found[parent]
            and named in each.name
        }
    return [hop for hop, ids in found.items() if not ids]


def collector_credentials(signer: Authority) -> grpc.ServerCredentials:
    """Credentials of a collector for processes of ours, whose certificates `signer` has signed."""
    ends = datetime.now(UTC) + timedelta(hours=1)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    certificate, key = signer.sign(tls_name(COLLECTOR), [], usages, ends)
    return grpc.ssl_server_credentials(
        [(key, certificate)], certificate_pem(signer.certificate), require_client_auth=True
    )


def _texts(attributes: Any) -> dict[str, str]:
    return {
        each.key: str(getattr(each.value, each.value.WhichOneof("value"))) for each in attributes
    }


def _span(service: str, span: SpanMessage) -> Span:
    return Span(
        service,
        span.name,
        SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == Status.STATUS_CODE_ERROR,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        _texts(span.attributes),
        tuple(each.name for each in span.events),
    )
