"""Gateways that serve batches alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from tests.builders.rpc import rpc_settings
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
