"""Gateways that serve batches alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from vireo.v1 import recommendation_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name


def batch_handlers(answer: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """The handlers of RecommendationService by method, of which BatchRecommend is `answer`."""
    return {
        "BatchRecommend": grpc.unary_stream_rpc_method_handler(
            answer,
            pb.BatchRecommendRequest.FromString,
            pb.BatchRecommendResponse.SerializeToString,
        )
    }
