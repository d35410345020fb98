"""The trace that a call belongs to, and which calls of a server become spans at a collector."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
import structlog

from tests.builders.columns import rank_request
from tests.builders.releases import build_release, poison_model
from tests.builders.rpc import rpc_settings, serving
from tests.otlp_sink import OtlpSink, running_otlp_sink
from vireo.server.errors import VireoError
from vireo.server.ranking.service import RANKING_POD
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.releases import layout
from vireo.server.rpc import span_export, spans
from vireo.server.rpc.spans import (
    Allowance,
    consumer_spans,
    current_traceparent,
    outgoing,
    span,
    start_export,
)
from vireo.server.rpc.trace import add_trace_id, begin_call, note_failure, trace_context
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-{CALLER}-{flags}" for flags in ("01", "00"))
METHOD = "vireo.v1.RankingService/RankCandidates"


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    """A collector that this process exports to, soon; no call is slow."""
    monkeypatch.setattr(span_export, "_BATCH_SECONDS", 0.05)
    monkeypatch.setattr(spans, "SLOW_SECONDS", 1e6)
    with running_otlp_sink() as sink:
        start_export(rpc_settings(otlp_endpoint=sink.endpoint), "test", "test-1")
        yield sink
        spans.end_export()


@pytest.fixture
async def channel(release_folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        yield channel


async def rank(channel: grpc.aio.Channel, traceparent: str, request_id: str = "r") -> None:
    metadata = (("traceparent", traceparent), ("x-request-id", request_id))
    await RankingServiceStub(channel).RankCandidates(rank_request(1, 2), metadata=metadata)


async def test_a_sampled_call_is_a_span_of_its_caller_with_a_span_for_each_stage(
    sink: OtlpSink, channel: grpc.aio.Channel
) -> None:
    await rank(channel, SAMPLED, "mine")
    found = await asyncio.to_thread(sink.trace, TRACE, 3)
    [server] = [each for each in found if each.kind == "SERVER"]
    assert (server.service, server.name, server.parent_id) == ("vireo-test", METHOD, CALLER)
    assert server.attributes["vireo.request_id"] == "mine"
    assert server.attributes["rpc.response.status_code"] == "OK"
    stages = [each for each in found if each is not server]
    assert "scorer.ranker" in {each.name for each in stages}
    assert {each.parent_id for each in stages} == {server.span_id}
    assert sum(each.seconds for each in stages) <= server.seconds


async def test_a_call_that_is_not_sampled_is_no_span(
    sink: OtlpSink, channel: grpc.aio.Channel
) -> None:
    for unsampled in (UNSAMPLED, "", f"00-{'0' * 32}-{CALLER}-01"):
        await rank(channel, unsampled, "unsampled")
    await rank(channel, SAMPLED, "sampled")
    found = await asyncio.to_thread(sink.trace, TRACE, 3)
    servers = [each for each in found if each.kind == "SERVER"]
    assert [each.attributes["vireo.request_id"] for each in servers] == ["sampled"]
    assert {each.trace_id for each in sink.spans} == {TRACE}


async def test_a_call_that_fails_is_a_span_though_it_is_not_sampled(
    sink: OtlpSink, tmp_path: Path
) -> None:
    build_release(tmp_path)
    poison_model(tmp_path, layout.RANKER, "video")
    # Built without its goldens, which would refuse it.
    pod = replace(RANKING_POD, build=lambda path: RankingPipeline(RankingRelease.load(path)))
    async with serving(pod, tmp_path) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await rank(channel, UNSAMPLED)
    [failed] = await asyncio.to_thread(sink.trace, TRACE, 1)
    assert failed.failed
    assert (failed.parent_id, failed.attributes["rpc.response.status_code"]) == (CALLER, "INTERNAL")


async def test_slow_calls_are_spans_though_they_are_not_sampled_but_in_an_outage_only_a_few(
    sink: OtlpSink, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "SLOW_SECONDS", 1e-9)
    monkeypatch.setattr(spans, "_unsampled", Allowance(lambda: 5.0))
    for number in range(30):
        await rank(channel, UNSAMPLED, f"unsampled {number}")
    await rank(channel, SAMPLED, "sampled")
    found = await asyncio.to_thread(
        sink.wait,
        lambda found: any(each.attributes.get("vireo.request_id") == "sampled" for each in found),
    )
    slow = [each for each in found if "unsampled" in each.attributes.get("vireo.request_id", "")]
    assert len(slow) == 10
    assert not any(each.failed for each in slow)


def test_calls_and_messages_within_a_span_have_it_as_their_parent(sink: OtlpSink) -> None:
    trace = begin_call([("traceparent", SAMPLED), ("tracestate", "a=1")])
    spans.begin_server_span("/s/M", trace, "r")
    headers = (("traceparent", SAMPLED), ("tracestate", "a=1"), ("x-request-id", "r"))
    with span("ranking", "client"):
        sent = dict(outgoing(headers))
        appended = current_traceparent()
    spans.end_server_span("/s/M", trace, "r", grpc.StatusCode.OK, 0.0, unary=True)
    [client] = [each for each in sink.trace(TRACE, 2) if each.kind == "CLIENT"]
    assert sent == {**dict(headers), "traceparent": f"00-{TRACE}-{client.span_id}-01"}
    assert appended == sent["traceparent"]
    begin_call([("traceparent", UNSAMPLED)])
    assert outgoing(headers) == headers
    assert current_traceparent() == ""


def test_what_went_wrong_in_a_call_is_in_its_span_though_it_is_not_sampled(sink: OtlpSink) -> None:
    trace = begin_call([("traceparent", UNSAMPLED)])
    note_failure("stage failed", stage="ranking")
    spans.end_server_span("/s/M", trace, "r", grpc.StatusCode.OK, 0.0, unary=True)
    [degraded] = sink.trace(TRACE, 1)
    assert degraded.events == ("stage failed",)


def test_a_batch_of_messages_is_a_span_in_each_trace_that_is_sampled(sink: OtlpSink) -> None:
    other = "1" * 32
    parents = ["", SAMPLED, UNSAMPLED, "nonsense", f"00-{other}-{CALLER}-01"]
    with (
        pytest.raises(VireoError),
        consumer_spans("apply", parents, {"vireo.messages": "5"}),
    ):
        raise VireoError("the store is away")
    found = sink.wait(lambda found: len(found) == 2)
    assert {each.trace_id for each in found} == {TRACE, other}
    for each in found:
        assert (each.kind, each.parent_id, each.failed) == ("CONSUMER", CALLER, True)
        assert each.attributes["vireo.messages"] == "5"


def test_log_lines_of_a_call_have_its_trace_id() -> None:
    begin_call([("traceparent", UNSAMPLED)])
    with structlog.testing.capture_logs(processors=[add_trace_id]) as lines:
        structlog.get_logger().info("x")
        begin_call([])
        structlog.get_logger().info("y")
    assert [line.get("trace_id") for line in lines] == [TRACE, None]


def test_nothing_of_opentelemetry_is_imported_without_a_collector() -> None:
    program = (
        "import sys, vireo.server.gateway.service, vireo.server.consumer.consumer\n"
        "import vireo.server.candidate.service\n"
        "from vireo.server.rpc.spans import start_export\n"
        "from vireo.server.rpc.settings import RpcSettings\n"
        "start_export(RpcSettings(port=0), 'gateway', 'g')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_without_opentelemetry_a_collector_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "vireo.server.rpc.span_export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(VireoError, match=r"pip install 'vireo\[tracing\]'"):
        start_export(rpc_settings(otlp_endpoint="http://127.0.0.1:1"), "test", "t")


STATE = ("tracestate", "a=1")
OF_A_TRACE = ("traceparent", SAMPLED)


@pytest.mark.parametrize(
    ("metadata", "sent"),
    [
        ([("x-other", "1"), STATE, OF_A_TRACE], (OF_A_TRACE, STATE)),
        ([OF_A_TRACE], (OF_A_TRACE,)),
        ([OF_A_TRACE, ("tracestate", "a=" + "1" * 511)], (OF_A_TRACE,)),
        ([STATE, ("traceparent-bin", b"\0")], ()),
        (None, ()),
        *(
            ([("traceparent", parent), STATE], ())
            for parent in ("", "00", SAMPLED.upper(), SAMPLED + "x", "x" * 10_000)
        ),
    ],
)
def test_a_trace_goes_along_as_it_is_unless_it_is_unfit(
    metadata: list[tuple[str, str | bytes]] | None, sent: tuple[tuple[str, str], ...]
) -> None:
    assert trace_context(metadata) == sent
