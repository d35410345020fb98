"""Gateways that serve batches alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.builders.rpc import rpc_settings, running_server
from vireo.server.rpc.guard import ServiceLimits
from vireo.server.rpc.server import RpcServer
from vireo.v1 import recommendation_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name


def batch_server(
    answer: Callable[[Any, Any], Any], limits: ServiceLimits | None = None, **settings: Any
) -> RpcServer:
    """A server of RecommendationService whose only method, BatchRecommend, is `answer`."""
    handlers = {
        "BatchRecommend": grpc.unary_stream_rpc_method_handler(
            answer,
            pb.BatchRecommendRequest.FromString,
            pb.BatchRecommendResponse.SerializeToString,
        )
    }
    server = RpcServer(rpc_settings(**settings))
    server.add(
        SERVICE, lambda methods: methods.add_registered_method_handlers(SERVICE, handlers), limits
    )
    return server


def one_video(_: pb.BatchRecommendRequest, viewer_id: str) -> pb.RecommendResponse:
    """A slate that says whose it is."""
    return pb.RecommendResponse(items=[pb.SlateItem(video_id=f"for {viewer_id}")])


@dataclass
class Batches:
    """A gateway that ends each call but the last with the next of its failures."""

    failures: list[Exception] = field(default_factory=list)
    after: int = 0
    """How many slates a call gets before it fails."""
    slate_for: Callable[[pb.BatchRecommendRequest, str], pb.RecommendResponse] = one_video
    requests: list[pb.BatchRecommendRequest] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    async def answer(
        self, request: pb.BatchRecommendRequest, context: Any
    ) -> AsyncGenerator[pb.BatchRecommendResponse, None]:
        self.requests.append(request)
        self.ids.append(dict(context.invocation_metadata()).get("x-request-id", ""))
        failure = self.failures.pop(0) if self.failures else None
        begin = int(request.resume_token or 0)
        for number, viewer_id in enumerate(request.viewer_ids[begin:]):
            if failure is not None and number == self.after:
                raise failure
            slate, token = self.slate_for(request, viewer_id), str(begin + number + 1)
            yield pb.BatchRecommendResponse(viewer_id=viewer_id, slate=slate, resume_token=token)


@asynccontextmanager
async def served(gateway: Batches) -> AsyncIterator[str]:
    """Run one; yield its address."""
    server = batch_server(gateway.answer, max_message_bytes=2 << 20)
    async with running_server(server):
        yield f"127.0.0.1:{server.port}"
