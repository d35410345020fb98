"""Nothing that callers send makes a gateway look broken: none is left out, none stops answering."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import pytest
import pytest_asyncio

from tests.builders.edge import GATEWAY, Edge, counter, running_edge
from tests.builders.http2 import grpc_frame, http2
from vireo.server.control.templates import FOLDER
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

T = TypeVar("T")
pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

RECOMMEND = f"/{GATEWAY}/Recommend"
CHECK = "/grpc.health.v1.Health/Check"
PROTOCOL_ERROR = 1
MESSAGE = grpc_frame(pb.RecommendRequest(viewer_id="1").SerializeToString())
ANSWER_SECONDS = 0.04
CALLS = 60
PATIENT = {"grpc-timeout": "30S"}
"""Headers of calls that a busy machine may take long to answer."""
"""At a time: more in a row than it takes to eject a pod."""
BAD_HEADERS = {
    "request id beyond ASCII": {"x-request-id": "é"},
    "request id with a tab": {"x-request-id": "a\tb"},
    "trace state beyond ASCII": {"tracestate": "a=é"},
    "baggage beyond ASCII": {"baggage": "a=é"},
    "a header of ours beyond ASCII": {"x-vireo-bucket": "é"},
    "a name that gRPC refuses": {"x!y$": "1"},
    "binary that is not Base64": {"x-a-bin": "!"},
    "binary with stray bits": {"x-a-bin": "AB"},
    "binary that gRPC parses": {"lb-cost-bin": "AAAA"},
    "attempts that are no number": {"grpc-previous-rpc-attempts": "x"},
    "Envoy's timeout": {"x-envoy-upstream-rq-timeout-ms": "5"},
    "Envoy's timeout, from an inner address": {
        "x-envoy-upstream-rq-timeout-ms": "5",
        "x-forwarded-for": "10.0.0.1",
    },
}
"""Each is left out of what a gateway gets, or made something that it can be sent."""
FORBIDDEN = {
    "connection": {"connection": "x"},
    "keep-alive": {"keep-alive": "timeout=5"},
    "proxy-connection": {"proxy-connection": "close"},
    "transfer-encoding": {"transfer-encoding": "chunked"},
    "upgrade": {"upgrade": "h2c"},
    "te": {"te": "gzip"},
    "upper case": {"X-A": "1"},
    "a name with a space": {"x a": "1"},
    "no name": {"": "1"},
    "a zero byte": {"x-a": "a\0b"},
    "a newline": {"x-a": "a\nb"},
    "another pseudo-header": {":other": "1"},
    "a header of responses": {":status": "200"},
    "a content-length that isn't that of the body": {"content-length": "5000"},
    "an unfit content-length": {"content-length": "x"},
}
"""Headers that HTTP/2 forbids."""
TRAILERS = {
    "beyond ASCII": {"x-a": "é"},
    "a name that gRPC refuses": {"x!y$": "1"},
    "binary that is not Base64": {"x-a-bin": "!"},
    "binary that gRPC parses": {"lb-cost-bin": "AAAA"},
    "a status that is no number": {"grpc-status": "x"},
    "a timeout": {"grpc-timeout": "soon"},
    "an encoding": {"grpc-encoding": "snappy"},
    "attempts that are no number": {"grpc-previous-rpc-attempts": "x"},
    "another type": {"content-type": "text/html"},
}
"""Each is valid in HTTP/2; gRPC's requests have none."""
FLOODS: dict[str, tuple[str, bytes, dict[str, str], grpc.StatusCode]] = {
    **{
        name: (RECOMMEND, MESSAGE, headers, grpc.StatusCode.OK)
        for name, headers in BAD_HEADERS.items()
    },
    "a method that isn't there": (f"/{GATEWAY}/Guess", MESSAGE, {}, grpc.StatusCode.UNIMPLEMENTED),
    "a service that isn't there": ("/a.B/C", MESSAGE, {}, grpc.StatusCode.UNIMPLEMENTED),
    "a message that is no gzip": (
        RECOMMEND,
        b"\1\0\0\0\3abc",
        {"grpc-encoding": "gzip"},
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "compressed without an encoding": (
        RECOMMEND,
        b"\1\0\0\0\3abc",
        {},
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """An edge that gives a try a minute: two that a busy machine delays eject a gateway as well."""
    scripts = shutil.copytree(FOLDER, tmp_path_factory.mktemp("envoy") / "scripts")
    text, limit = (scripts / "edge_request.lua").read_text(), "local MAX_TRY = 500"
    assert limit in text
    (scripts / "edge_request.lua").write_text(text.replace(limit, "local MAX_TRY = 60000"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vireo.server.control.resources.FOLDER", scripts)
        async with running_edge(tmp_path_factory.mktemp("edge"), gateway_count=2) as edge:
            for gateway in edge.gateways:
                gateway.delay = ANSWER_SECONDS
            yield edge


async def flood(
    edge: Edge, path: str, body: bytes, headers: dict[str, str]
) -> set[grpc.StatusCode | None]:
    """With what many calls at a time end, on one connection."""
    async with http2(edge.address) as connection, asyncio.timeout(60):
        streams = [connection.open(path, body, headers) for _ in range(CALLS)]
        for stream in streams:
            await stream.ended.wait()
    return {stream.code for stream in streams}


async def ejects_none(edge: Edge, attack: Callable[[], Awaitable[T]]) -> T:
    """Return what an attack does, after which no gateway more was ejected than before."""
    name = "outlier_detection.ejections_enforced_total"
    ejected = await counter(edge, "gateway", name)
    seen = await attack()
    assert await counter(edge, "gateway", name) == ejected
    return seen


@pytest.mark.parametrize(("path", "body", "headers", "code"), FLOODS.values(), ids=FLOODS.keys())
async def test_headers_that_a_gateway_rejects_and_calls_that_end_in_errors_eject_no_gateway(
    edge: Edge, path: str, body: bytes, headers: dict[str, str], code: grpc.StatusCode
) -> None:
    in_time = {**PATIENT, **headers}
    assert await ejects_none(edge, lambda: flood(edge, path, body, in_time)) == {code}


@pytest.mark.parametrize("headers", FORBIDDEN.values(), ids=FORBIDDEN.keys())
async def test_a_header_that_http2_forbids_ends_its_stream_and_no_other(
    edge: Edge, headers: dict[str, str]
) -> None:
    async with http2(edge.address) as connection, asyncio.timeout(60):
        before = connection.open(RECOMMEND, MESSAGE[:1], PATIENT, end=False)
        forbidden = connection.open(RECOMMEND, MESSAGE, headers)
        await forbidden.ended.wait()
        assert not connection.closed.is_set()
        after = connection.open(RECOMMEND, MESSAGE, PATIENT)
        connection.send(before, MESSAGE[1:])
        connection.end(before)
        for stream in (before, after):
            await stream.ended.wait()
    assert (forbidden.reset, forbidden.code) == (PROTOCOL_ERROR, None)
    assert (before.code, after.code) == (grpc.StatusCode.OK, grpc.StatusCode.OK)


@pytest.mark.parametrize("trailers", TRAILERS.values(), ids=TRAILERS.keys())
async def test_trailers_of_a_request_are_left_out_and_fail_no_other_call(
    edge: Edge, trailers: dict[str, str]
) -> None:
    # gRPC would refuse them; then it would also refuse other calls of its connection with the edge,
    # whose headers are compressed by what it knows of headers before.
    async with http2(edge.address) as connection, asyncio.timeout(60):
        for _ in range(2 * len(edge.gateways)):
            stream = connection.open(RECOMMEND, MESSAGE, PATIENT, end=False)
            connection.end(stream, trailers)
            await stream.ended.wait()
            assert stream.code is grpc.StatusCode.OK
    assert await flood(edge, RECOMMEND, MESSAGE, PATIENT) == {grpc.StatusCode.OK}


@pytest.mark.parametrize("deadline", ["0m", "1n", "1m", "20m", "50m", "290m"])
async def test_callers_in_a_hurry_eject_no_gateway_however_slow_it_is(
    edge: Edge, deadline: str
) -> None:
    for gateway in edge.gateways:
        gateway.delay = 0.3 if deadline == "290m" else ANSWER_SECONDS
    hurry = {"grpc-timeout": deadline}
    codes = await ejects_none(edge, lambda: flood(edge, RECOMMEND, MESSAGE, hurry))
    for gateway in edge.gateways:
        gateway.delay = ANSWER_SECONDS
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}


async def test_calls_that_are_broken_off_eject_no_gateway(edge: Edge) -> None:
    async def break_off() -> None:
        async with http2(edge.address) as connection:
            for _ in range(CALLS):
                connection.cancel(connection.open(RECOMMEND, MESSAGE))
                connection.cancel(connection.open(RECOMMEND, MESSAGE[:-1], end=False))
                await asyncio.sleep(0)
        async with grpc.aio.insecure_channel(edge.address) as channel:
            stub = RecommendationServiceStub(channel)
            await stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=30)

    await ejects_none(edge, break_off)


async def test_a_non_ascii_request_id_is_returned_readable(edge: Edge) -> None:
    async with http2(edge.address) as connection, asyncio.timeout(30):
        stream = connection.open(RECOMMEND, MESSAGE, {"x-request-id": "my é\t1"})
        await stream.ended.wait()
    assert stream.headers["x-request-id"] == "my ??1"
    assert "my ??1" in {gateway.metadata.get("x-request-id") for gateway in edge.gateways}


@pytest.mark.parametrize("path", [RECOMMEND, CHECK, "/a.B/C"])
@pytest.mark.parametrize("end", ["?a=é", " b", "\x7f"])
async def test_a_path_beyond_ascii_is_refused_and_reaches_no_gateway(
    edge: Edge, path: str, end: str
) -> None:
    # By one that is no UTF-8, gRPC's server in Python would stop taking calls for good.
    before = await counter(edge, "gateway", "upstream_rq_total")
    async with http2(edge.address) as connection, asyncio.timeout(30):
        stream = connection.open(path + end, MESSAGE)
        await stream.ended.wait()
        # A space or control character breaks HTTP/2 itself: Envoy resets the stream.
        assert stream.code is grpc.StatusCode.INVALID_ARGUMENT or stream.reset is not None
    assert await counter(edge, "gateway", "upstream_rq_total") == before
    await answers(edge)


async def answers(edge: Edge) -> None:
    """Both gateways still answer."""
    async with grpc.aio.insecure_channel(edge.address) as channel, asyncio.timeout(60):
        stub = RecommendationServiceStub(channel)
        heard: set[str] = set()
        while len(heard) < len(edge.gateways):
            answer = await stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=30)
            heard.add(answer.release_id)


DEADLINES = {"a deadline": {"grpc-timeout": "1S"}, "no deadline": {}}


@pytest.mark.parametrize("headers", DEADLINES.values(), ids=DEADLINES.keys())
async def test_calls_that_send_no_message_hold_nothing_of_a_gateway_and_end(
    edge: Edge, headers: dict[str, str]
) -> None:
    before = await counter(edge, "gateway", "upstream_rq_total")
    async with http2(edge.address) as connection, asyncio.timeout(60):
        streams = [connection.open(RECOMMEND, headers=headers, end=False) for _ in range(200)]
        for stream in streams:
            await stream.ended.wait()
            assert stream.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await counter(edge, "gateway", "upstream_rq_total") == before
    await answers(edge)


async def test_calls_whose_message_trickles_in_end(edge: Edge) -> None:
    # Each byte shows that the stream is in use: idle timeouts never end it.
    async with http2(edge.address) as connection, asyncio.timeout(60):
        streams = [connection.open(RECOMMEND, MESSAGE[:1], end=False) for _ in range(3)]
        checks = [connection.open(CHECK, b"\0", end=False) for _ in range(3)]
        while not all(stream.ended.is_set() for stream in [*streams, *checks]):
            for stream in [*streams, *checks]:
                connection.send(stream, b"\0")
            await asyncio.sleep(0.5)
    assert {stream.code for stream in [*streams, *checks]} == {grpc.StatusCode.DEADLINE_EXCEEDED}
