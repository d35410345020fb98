"""What gRPC callers expect along the way: compression, details of errors, ids and traces."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from tests.builders.edge import Edge, running_edge
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.viewer_pb2 import ViewerFeatures

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge"), gateway_count=1) as edge:
        yield edge


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_request_is_answered(edge: Edge, algorithm: grpc.Compression) -> None:
    excluded = [f"{number:0128}" for number in range(1000)]
    request = pb.RecommendRequest(viewer_id="z", excluded_video_ids=excluded)
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)
        await stub.Recommend(request, timeout=20, compression=algorithm)
    assert edge.last_request == request


async def test_a_decompressed_message_above_the_limit_is_rejected(edge: Edge) -> None:
    request = pb.RecommendRequest(viewer_id="x" * (2 << 20))
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Recommend(request, timeout=20, compression=grpc.Compression.Gzip)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_error_has_its_details_in_the_trailers(edge: Edge) -> None:
    async with grpc.aio.insecure_channel(edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await RecommendationServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=20)
    trailers = dict(raised.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == raised.value.code().value[0]
    assert status.message == raised.value.details()
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == ["viewer_id"]


async def test_the_callers_id_agent_and_trace_reach_the_gateway(edge: Edge) -> None:
    sent = {"x-request-id": "my-own", "traceparent": PARENT, "tracestate": "a=1,b=2"}
    options = [("grpc.primary_user_agent", "site/7")]
    async with grpc.aio.insecure_channel(edge.address, options) as channel:
        call = RecommendationServiceStub(channel).Recommend(
            pb.RecommendRequest(viewer_id="1"), timeout=20, metadata=tuple(sent.items())
        )
        await call
    metadata = edge.gateways[0].metadata
    assert {name: metadata[name] for name in sent} == sent
    assert metadata["user-agent"].startswith("site/7 grpc-python")


async def test_a_gateway_gets_no_header_that_envoy_adds_and_nobody_reads(edge: Edge) -> None:
    forwarded = (("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"))
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)
        await stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=20, metadata=forwarded)
    names = set(edge.gateways[0].metadata)
    assert not unread(names)


async def test_a_pod_gets_no_header_that_envoy_adds_and_nobody_reads(edge: Edge) -> None:
    sent = {
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-proto": "https",
        "x-envoy-upstream-rq-per-try-timeout-ms": "20000",
    }
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.settings.candidate_port}") as channel:
        await CandidateServiceStub(channel).RetrieveCandidates(
            RetrieveCandidatesRequest(viewer=ViewerFeatures(), count=1),
            timeout=20,
            metadata=tuple(sent.items()),
        )
    [names] = [set(pod.metadata) for pod in edge.candidates if pod.metadata]
    assert not unread(names)


def unread(names: set[str]) -> list[str]:
    """The headers that only Envoys read."""
    return [name for name in names if name.startswith(("x-envoy-", "x-forwarded-"))]
