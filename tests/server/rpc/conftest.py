from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders.rpc import rpc_settings
from tests.otlp_sink import OtlpSink, running_otlp_sink
from vireo.server.rpc import span_export, spans
from vireo.server.rpc.spans import end_export, start_export


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    """A collector that this process exports to, soon; no call is slow."""
    monkeypatch.setattr(span_export, "_BATCH_SECONDS", 0.05)
    monkeypatch.setattr(spans, "SLOW_SECONDS", 1e6)
    with running_otlp_sink() as sink:
        start_export(rpc_settings(otlp_endpoint=sink.endpoint), "test", "test-1")
        yield sink
        end_export()
