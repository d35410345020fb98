"""Which calls the real Envoy samples, and the spans that it makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from tests.builders.edge import Edge, running_edge
from tests.otlp_sink import OtlpSink, collector_credentials, listed, running_otlp_sink
from vireo.ops.stack.ports import free_port_base
from vireo.server.security.certificates import Certificates
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Edge, OtlpSink]]:
    """An edge that samples the calls of everybody who doesn't say otherwise."""
    with running_otlp_sink() as sink:
        control = {"otlp_endpoint": sink.endpoint, "trace_share": 1.0}
        async with running_edge(
            tmp_path_factory.mktemp("edge"), gateway_count=1, control=control
        ) as edge:
            yield edge, sink


async def ask(channel: grpc.aio.Channel, **metadata: str) -> None:
    await RecommendationServiceStub(channel).Recommend(
        pb.RecommendRequest(viewer_id="1"), timeout=20, metadata=tuple(metadata.items())
    )


async def test_a_sampled_call_is_a_span_at_the_edge_and_one_towards_the_gateway(
    traced: tuple[Edge, OtlpSink],
) -> None:
    edge, sink = traced
    async with grpc.aio.insecure_channel(edge.address) as channel:
        await ask(channel, traceparent=f"00-{TRACE}-{CALLER}-01", tracestate="a=1")
    metadata = edge.gateways[0].metadata
    version, trace_id, parent, flags = metadata["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert metadata["tracestate"] == "a=1"
    found = await asyncio.to_thread(sink.trace, TRACE, 2)
    [server] = [each for each in found if each.kind == "SERVER"]
    [client] = [each for each in found if each.kind == "CLIENT"]
    assert {each.service for each in found} == {"vireo-envoy"}
    assert (server.parent_id, client.parent_id) == (CALLER, server.span_id), listed(found)
    assert parent == client.span_id


async def test_callers_without_a_trace_are_sampled_by_the_share_whatever_their_request_id(
    traced: tuple[Edge, OtlpSink],
) -> None:
    edge, sink = traced
    async with grpc.aio.insecure_channel(edge.address) as channel:
        await ask(channel, **{"x-request-id": "my-own"})
    _, trace_id, parent, flags = edge.gateways[0].metadata["traceparent"].split("-")
    assert flags == "01"
    found = await asyncio.to_thread(sink.trace, trace_id, 2)
    assert parent in {each.span_id for each in found}
    assert [each.parent_id for each in found if each.kind == "SERVER"] == [""]


async def test_a_caller_may_leave_its_call_out(traced: tuple[Edge, OtlpSink]) -> None:
    edge, sink = traced
    other = "1" * 32
    async with grpc.aio.insecure_channel(edge.address) as channel:
        await ask(channel, traceparent=f"00-{other}-{CALLER}-00")
        assert edge.gateways[0].metadata["traceparent"].endswith("-00")
        assert other in edge.gateways[0].metadata["traceparent"]
        await ask(channel, traceparent=f"00-{'2' * 32}-{CALLER}-01")
    await asyncio.to_thread(sink.trace, "2" * 32, 2)
    assert not [each for each in sink.spans if each.trace_id == other]


async def test_an_edge_may_have_its_callers_decide_nothing(tmp_path: Path) -> None:
    control = {"otlp_endpoint": "http://127.0.0.1:1", "trace_share": 0.0, "trace_callers": False}
    async with (
        running_edge(tmp_path, gateway_count=1, control=control) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        await ask(channel, traceparent=f"00-{TRACE}-{CALLER}-01", tracestate="a=1")
    metadata = edge.gateways[0].metadata
    _, trace_id, _, flags = metadata["traceparent"].split("-")
    assert trace_id != TRACE
    assert flags == "00"
    assert not metadata.get("tracestate")


async def test_by_mutual_tls_and_with_a_share_of_nothing_only_callers_own_traces_are_sampled(
    tmp_path: Path,
) -> None:
    port = free_port_base()
    control = {"otlp_endpoint": f"https://127.0.0.1:{port}", "trace_share": 0.0}
    async with running_edge(tmp_path, gateway_count=1, secure=True, control=control) as edge:
        folder = edge.settings.security
        credentials = collector_credentials(Certificates(folder).signing_authority())
        roots = grpc.ssl_channel_credentials(folder.authority.read_bytes())
        async with grpc.aio.secure_channel(edge.address, roots) as channel:
            with running_otlp_sink(credentials, port) as sink:
                await ask(channel)
                assert edge.gateways[0].metadata["traceparent"].endswith("-00"), "it has an id"
                await ask(channel, traceparent=f"00-{TRACE}-{CALLER}-01")
                await asyncio.to_thread(sink.trace, TRACE, 2)
                assert {each.trace_id for each in sink.spans} == {TRACE}
