"""How spans get to a collector, and what becomes of those that don't."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.builders.certificates import role_files
from tests.builders.samples import Grown
from tests.otlp_sink import collector_credentials, running_otlp_sink
from vireo.server.rpc import span_export as export
from vireo.server.rpc.span_export import SpanExport
from vireo.server.rpc.tls import TlsFiles
from vireo.server.security.certificates import Authority, certificate_pem

PARENT = ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]


@contextmanager
def opened(endpoint: str, tls: TlsFiles | None = None) -> Iterator[SpanExport]:
    opened = SpanExport(endpoint, tls, "test", "test-1")
    yield opened
    opened.close(10.0)


def test_spans_that_wait_are_sent_when_a_process_ends(grown: Grown) -> None:
    with running_otlp_sink() as sink:
        with opened(sink.endpoint) as spans:
            spans.consumed("apply", PARENT, {}, 0, None)
        assert len(sink.spans) == 1
        assert grown("vireo_trace_spans_exported_total") == 1


def test_a_process_ends_soon_while_its_collector_hangs() -> None:
    released = threading.Event()
    with running_otlp_sink() as sink:
        sink.hangs_until = released
        spans = SpanExport(sink.endpoint, None, "test", "test-1")
        spans.consumed("apply", PARENT, {}, 0, None)
        spans.close(0.01)
        assert "last spans" in {each.name for each in threading.enumerate()}, "it waited for them"
        assert not sink.spans
        released.set()


def test_spans_that_a_collector_refuses_are_counted(grown: Grown) -> None:
    with running_otlp_sink() as sink:
        sink.refuses = True
        with opened(sink.endpoint) as spans:
            spans.consumed("apply", PARENT * 3, {}, 0, None)
    assert grown("vireo_trace_spans_dropped_total", reason="collector") == 3


def test_spans_beyond_the_bound_of_the_queue_are_counted(
    monkeypatch: pytest.MonkeyPatch, grown: Grown
) -> None:
    monkeypatch.setattr(export, "_MAX_WAITING", 5)
    monkeypatch.setattr(export, "_MAX_BATCH", 5)
    released = threading.Event()
    with running_otlp_sink() as sink:
        sink.hangs_until = released
        with opened(sink.endpoint) as spans:
            spans.consumed("sent at once", PARENT * 5, {}, 0, None)
            sink.asked.wait(60)  # which leaves the queue empty
            spans.consumed("waits", PARENT * 5, {}, 0, None)
            spans.consumed("too many", PARENT * 2, {}, 0, None)
            released.set()
        assert [each.name for each in sink.spans] == ["sent at once"] * 5 + ["waits"] * 5
    assert grown("vireo_trace_spans_dropped_total", reason="queue") == 2


def test_a_collector_by_https_is_reached_by_mutual_tls_also_after_a_renewal(tmp_path: Path) -> None:
    signer = Authority.new()
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes(certificate_pem(signer.certificate))
    own = role_files(tmp_path / "gateway", signer, "gateway", trusts=trusted)
    with running_otlp_sink(collector_credentials(signer)) as sink:
        with opened(f"https://127.0.0.1:{sink.port}", own) as spans:
            spans.consumed("before", PARENT, {}, 0, None)
            sink.wait(lambda found: len(found) == 1)
            renewed, renewed_key = signer.issue("gateway")
            own.certificate.write_bytes(renewed)
            own.key.write_bytes(renewed_key)
            spans.consumed("after", PARENT, {}, 0, None)
        assert [each.name for each in sink.spans] == ["before", "after"]
