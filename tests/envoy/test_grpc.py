"""gRPC at the edge and behind it: compression, errors, metadata, deadlines, gRPC-Web, traces."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.builders.edge import GATEWAY, Edge, running_edge
from tests.builders.http2 import grpc_frame
from tests.builders.tiny_home import VIEWER
from tests.builders.waiting import until
from tests.envoy.conftest import DEFAULT_DEADLINE
from tests.otlp_sink import OtlpSink, running_otlp_sink
from vireo.server.rpc.caller import CALLER
from vireo.server.rpc.errors import invalid_argument
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.viewer_pb2 import ViewerFeatures

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
RECOMMEND = pb.RecommendRequest(viewer_id=VIEWER)
CANDIDATES = RetrieveCandidatesRequest(viewer=ViewerFeatures(), count=1)
PATHS = (f"/{GATEWAY}/Recommend", "/grpc.health.v1.Health/Check", "/a.B/C")
TRY_SECONDS = 0.5
"""Seconds after which the edge asks another gateway for a slate."""


@contextmanager
def slow(edge: Edge, seconds: float) -> Iterator[None]:
    """Have the gateway take so long for each answer."""
    edge.gateways[0].delay = seconds
    try:
        yield
    finally:
        edge.gateways[0].delay = 0


@pytest.mark.parametrize(
    "compression",
    [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate],
)
async def test_a_request_is_answered_compressed_or_not(
    edge: Edge, slates: Any, compression: grpc.Compression
) -> None:
    excluded = [f"{number:0128}" for number in range(1000)]
    request = pb.RecommendRequest(viewer_id="z", excluded_video_ids=excluded)
    response = await slates.Recommend(request, timeout=20, compression=compression)
    assert response.items[0].video_id == "v"
    assert edge.last_request == request


@pytest.mark.parametrize(
    "compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip], ids=["plain", "gzip"]
)
async def test_a_request_over_the_limit_is_refused(
    slates: Any, compression: grpc.Compression
) -> None:
    request = pb.RecommendRequest(viewer_id="x" * (2 << 20))
    call = slates.Recommend(request, timeout=20, compression=compression)
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_request_with_many_mistakes_is_invalid_for_every_kind_of_caller(
    edge: Edge, slates: Any
) -> None:
    [gateway] = edge.gateways
    mistakes = [(f"filter.conditions[{place}]", "ü" * 200) for place in range(64)]
    gateway.failure = invalid_argument(mistakes)
    frame = grpc_frame(RECOMMEND.SerializeToString())
    kind = {"content-type": "application/grpc-web+proto"}
    try:
        rest = await edge.rest("/v1/viewers/1/recommendations")
        web = await edge.rest(f"/{GATEWAY}/Recommend", frame, headers=kind)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await slates.Recommend(RECOMMEND, timeout=20)
    finally:
        gateway.failure = None
    assert (rest.status, rest.json["code"]) == (400, 3)
    listed = rest.json["details"][0]["fieldViolations"]
    assert listed[0]["field"] == "filter.conditions[0]"
    assert rest.json["message"].endswith("and 59 more")
    assert web.headers["grpc-status"] == "3"
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (raised.value.details() or "").endswith("and 59 more")


async def test_grpc_web_gets_an_answer(edge: Edge) -> None:
    frame = base64.b64encode(grpc_frame(RECOMMEND.SerializeToString()))
    kind = {"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"}
    answer = await edge.rest(f"/{GATEWAY}/Recommend", frame, headers=kind)
    assert answer.status == 200
    body = base64.b64decode(answer.body.split(b"=")[0] + b"==")
    size = int.from_bytes(body[1:5], "big")
    assert pb.RecommendResponse.FromString(body[5 : 5 + size]).items[0].video_id == "v"


@pytest.mark.parametrize("path", PATHS)
async def test_a_header_that_a_grpc_server_would_call_its_own_error_is_the_callers(
    edge: Edge, path: str
) -> None:
    headers = {"content-type": "application/grpc", "grpc-encoding": "snappy"}
    answer = await edge.rest(path, b"\0" * 5, headers=headers)
    assert answer.headers["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])
    assert answer.headers["grpc-message"].startswith("grpc-encoding: ")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["grpc", "grpc+proto", "grpc-web+proto", "grpc-web-text"])
async def test_grpc_by_another_verb_reaches_no_gateway(edge: Edge, path: str, kind: str) -> None:
    # A gateway would reset GET and PUT: two of them, and Envoy would leave it out for a while.
    headers = {"content-type": f"application/{kind}"}
    for verb in ("GET", "PUT", "DELETE", "PATCH"):
        answer = await edge.rest(path, b"AAAAAAA=", verb, headers)
        assert answer.headers["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])
        assert answer.headers["grpc-message"] == "gRPC requires POST"


async def test_callers_without_a_deadline_or_the_header_te_get_the_default_deadline(
    edge: Edge,
) -> None:
    # HTTP/1.1, and without the header `te`: a gateway's gRPC would reset the stream.
    headers = {"content-type": "application/grpc", "grpc-timeout": "soon"}
    frame = grpc_frame(RECOMMEND.SerializeToString())
    answer = await edge.rest(f"/{GATEWAY}/Recommend", frame, headers=headers)
    assert answer.headers.get("grpc-status") != str(grpc.StatusCode.UNAVAILABLE.value[0])
    assert edge.last_request == RECOMMEND
    assert 1 < (edge.gateways[0].left or 0) <= DEFAULT_DEADLINE
    edge.gateways[0].left = None
    await edge.rest("/v1/viewers/1/recommendations")
    assert 1 < (edge.gateways[0].left or 0) <= DEFAULT_DEADLINE


async def test_the_callers_id_agent_trace_and_address_reach_the_gateway(edge: Edge) -> None:
    sent = {"x-request-id": "my-own", "traceparent": PARENT, "tracestate": "a=1,b=2"}
    options = [("grpc.primary_user_agent", "site/7")]
    async with grpc.aio.insecure_channel(edge.address, options) as channel:
        await RecommendationServiceStub(channel).Recommend(
            RECOMMEND, timeout=20, metadata=(*sent.items(), (CALLER, "another"))
        )
    metadata = edge.gateways[0].metadata
    assert {name: metadata[name] for name in sent} == sent
    assert metadata["user-agent"].startswith("site/7 grpc-python")
    assert metadata[CALLER] == "127.0.0.1"


async def test_gateways_and_pods_get_no_header_that_envoy_adds_and_nobody_reads(
    edge: Edge, slates: Any
) -> None:
    forwarded = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}
    await slates.Recommend(RECOMMEND, timeout=20, metadata=tuple(forwarded.items()))
    one_try = {"x-envoy-upstream-rq-per-try-timeout-ms": "60000"}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.settings.candidate_port}") as channel:
        # One try, or a pod that is slow for a moment would have another asked as well.
        await CandidateServiceStub(channel).RetrieveCandidates(
            CANDIDATES, timeout=8, metadata=tuple({**forwarded, **one_try}.items())
        )
    [pod] = [pod for pod in edge.candidates if pod.metadata]
    for metadata in (edge.gateways[0].metadata, pod.metadata):
        assert not [name for name in metadata if name.startswith(("x-envoy-", "x-forwarded-"))]


async def test_a_caller_who_cancels_at_the_edge_cancels_the_gateways_call(
    edge: Edge, slates: Any
) -> None:
    gateway = edge.gateways[0]
    gateway.delay = math.inf
    asked, cancelled = len(gateway.requests), gateway.cancelled
    call = slates.Recommend(RECOMMEND, timeout=60)
    waiting = asyncio.ensure_future(call)
    await until(lambda: len(gateway.requests) > asked)
    call.cancel()
    await until(lambda: gateway.cancelled > cancelled)
    await asyncio.gather(waiting, return_exceptions=True)
    gateway.delay = 0


async def test_a_batch_lasts_longer_than_a_try_and_ends_with_its_callers_deadline(
    edge: Edge, slates: Any
) -> None:
    with slow(edge, 1.2 * TRY_SECONDS):
        call = slates.BatchRecommend(pb.BatchRecommendRequest(viewer_ids=["a", "b", "c"]))
        assert [each.viewer_id async for each in call] == ["a", "b", "c"]
    assert "x-envoy-upstream-rq-per-try-timeout-ms" not in edge.gateways[0].metadata
    with slow(edge, 60):
        call = slates.BatchRecommend(pb.BatchRecommendRequest(viewer_ids=["a"]), timeout=0.5)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_largest_batch_passes_and_one_beyond_two_mebibytes_does_not(slates: Any) -> None:
    viewers = [f"{number:0128d}" for number in range(10_000)]
    call = slates.BatchRecommend(pb.BatchRecommendRequest(viewer_ids=viewers))
    assert [each.viewer_id async for each in call] == viewers
    too_large = pb.BatchRecommendRequest(viewer_ids=["v" * (1 << 21), *viewers])
    assert await slates.BatchRecommend(too_large).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest_asyncio.fixture(loop_scope="session", scope="session")
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
        await ask(channel, traceparent=f"00-{other}-{SPAN}-00")
        assert edge.gateways[0].metadata["traceparent"].endswith("-00")
        assert other in edge.gateways[0].metadata["traceparent"]
        await ask(channel, traceparent=f"00-{'2' * 32}-{SPAN}-01")
    found = await asyncio.to_thread(sink.trace, "2" * 32, 2)
    assert [each.parent_id for each in found if each.kind == "SERVER"] == [SPAN]
    assert not [each for each in sink.spans if each.trace_id == other]


async def test_an_edge_may_have_its_callers_decide_nothing(tmp_path: Path) -> None:
    control = {"otlp_endpoint": "http://127.0.0.1:1", "trace_share": 0.0, "trace_callers": False}
    async with (
        running_edge(tmp_path, gateway_count=1, control=control) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        await ask(channel, traceparent=PARENT, tracestate="a=1")
    metadata = edge.gateways[0].metadata
    _, trace_id, _, flags = metadata["traceparent"].split("-")
    assert trace_id != TRACE
    assert flags == "00"
    assert not metadata.get("tracestate")
