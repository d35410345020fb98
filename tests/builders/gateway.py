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

from tests.builders.rpc import rpc_settings, running_server
from vireo.server.rpc.errors import RpcError, not_found
from vireo.server.rpc.guard import Guard
from vireo.server.rpc.server import Methods, RpcServer
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.recommendation_pb2_grpc import (
    RecommendationServiceServicer,
    add_RecommendationServiceServicer_to_server,
)

GATEWAY = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name
EXPLANATION = pb.ExplainVideoResponse(
    lost_at=pb.LOST_AT_RETRIEVAL,
    reason="No source proposed it: two_tower ranked it 812th and proposed 450.",
    source_ranks=[pb.SourceRank(source=viewer_pb2.SOURCE_TWO_TOWER, rank=812, proposed=450)],
    retrieval_scores=[pb.NamedValue(name="two_tower", value=0.5)],
    score=0.25,
    score_factor=1,
    task_scores=pb.TaskScores(watch=0.25, like=0.5),
    task_weights=[pb.NamedValue(name="watch", value=1)],
    ranking_features=[pb.NamedValue(name="content_match", value=0.125)],
    candidates=450,
    release_id="r",
    request_id="id",
)
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
    explained: list[pb.ExplainVideoRequest] = field(default_factory=list)
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

    async def ExplainVideo(  # noqa: N802
        self, request: pb.ExplainVideoRequest, context: Any
    ) -> pb.ExplainVideoResponse:
        self.explained.append(request)
        return EXPLANATION


@asynccontextmanager
async def fake_gateway(port: int = 0) -> AsyncIterator[FakeGateway]:
    """Run one, by default on a free port."""
    gateway = FakeGateway()  # type: ignore[abstract]
    server = RpcServer(rpc_settings(port=port))
    server.add(GATEWAY, partial(add_RecommendationServiceServicer_to_server, gateway))
    async with running_server(server):
        gateway.address = f"127.0.0.1:{server.port}"
        yield gateway


@asynccontextmanager
async def secure_gateway(credentials: grpc.ServerCredentials) -> AsyncIterator[FakeGateway]:
    """Run one behind TLS."""
    gateway = FakeGateway()  # type: ignore[abstract]
    server = grpc.aio.server()
    guard = Guard(access_log_share=0, max_bytes=1 << 20)
    methods: Any = Methods(server, guard.guarded)
    add_RecommendationServiceServicer_to_server(gateway, methods)
    gateway.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    try:
        yield gateway
    finally:
        await server.stop(0)
