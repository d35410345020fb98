"""A gateway with scripted responses, behind the server and guard of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.recommendation_pb2_grpc import (
    RecommendationServiceServicer,
    add_RecommendationServiceServicer_to_server,
)

from server.rpc.errors import RpcError, not_found
from server.rpc.guard import Guard
from server.rpc.server import RpcServer
from server.rpc.transport import Methods
from tests.builders.rpc import rpc_settings

GATEWAY = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name
SLATE = pb.RecommendResponse(items=[pb.SlateItem(video_id="v", position=1)], release_id="r")


def overloaded(retry_after: timedelta) -> RpcError:
    """A call that is turned away, with a delay of the test's own choice."""
    hint = error_details_pb2.RetryInfo()
    hint.retry_delay.FromTimedelta(retry_after)
    return RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", [hint])


@dataclass
class FakeGateway(RecommendationServiceServicer):
    """Answers each call with the next of its answers, and with the last one from then on."""

    answers: list[pb.RecommendResponse | Exception | None] = field(default_factory=lambda: [SLATE])
    """None is a call that is never answered."""
    address: str = ""
    requests: list[pb.RecommendRequest] = field(default_factory=list)
    similar: list[pb.SimilarVideosRequest] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """What was left of each call's deadline."""
    peers: set[str] = field(default_factory=set)
    """The connections that calls came by."""
    cancelled: int = 0

    async def Recommend(self, request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:  # noqa: N802
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.seconds.append(context.time_remaining())
        self.peers.add(context.peer())
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        assert answer is not None
        return answer

    async def SimilarVideos(  # noqa: N802
        self, request: pb.SimilarVideosRequest, context: Any
    ) -> pb.SimilarVideosResponse:
        self.similar.append(request)
        if request.video_id == "nowhere":
            raise not_found("video_id: 'nowhere' is not in the release that is served")
        return pb.SimilarVideosResponse(
            items=SLATE.items,
            request_id="id",
            release_id="r",
            degradations=[viewer_pb2.DEGRADATION_RANKING_SKIPPED],
        )


@asynccontextmanager
async def fake_gateway(port: int = 0) -> AsyncIterator[FakeGateway]:
    """Run one, by default on a free port."""
    gateway = FakeGateway()  # type: ignore[abstract]
    server = RpcServer(rpc_settings(port=port))
    server.add(GATEWAY, partial(add_RecommendationServiceServicer_to_server, gateway))
    await server.start()
    gateway.address = f"127.0.0.1:{server.port}"
    try:
        yield gateway
    finally:
        await server.drain()


@asynccontextmanager
async def secure_gateway(credentials: grpc.ServerCredentials) -> AsyncIterator[FakeGateway]:
    """Run one behind TLS."""
    gateway = FakeGateway()  # type: ignore[abstract]
    server = grpc.aio.server()
    guard = Guard(access_log_share=0, max_calls=100, max_streams=10, max_bytes=1 << 20)
    methods: Any = Methods(server, guard.guarded)
    add_RecommendationServiceServicer_to_server(gateway, methods)
    gateway.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    try:
        yield gateway
    finally:
        await server.stop(0)
