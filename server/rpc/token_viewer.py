"""Checks that requests are of the viewer that their caller's token names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from server.rpc.errors import RpcError
from server.rpc.reading import Metadata

VIEWER = "x-vireo-viewer"
"""Metadata key: the viewer that the caller's token names, percent-encoded, as the edge knows it."""

VIEWERS: Mapping[str, Callable[[Any], Iterable[str]]] = {
    "/vireo.v1.RecommendationService/Recommend": lambda request: [request.viewer_id],
    "/vireo.v1.RecommendationService/SimilarVideos": lambda _: (),  # for nobody in particular
    "/vireo.v1.RecommendationService/ExplainVideo": lambda request: [request.request.viewer_id],
    "/vireo.v1.RecommendationService/BatchRecommend": lambda request: request.viewer_ids,
    "/vireo.v1.EventService/RecordEvents": lambda request: (e.viewer_id for e in request.events),
    "/vireo.v1.EventService/StreamEvents": lambda request: (e.viewer_id for e in request.events),
}
"""The viewers of a request, by the path of its method. A token that names a viewer can't call any
other method."""


def check_viewer(method: str, metadata: Metadata, request: Message) -> None:
    """Check that a request is of no other viewer than the one that its caller's token names.

    Args:
        method: path of the method.
        metadata: the call's.
        request: the request, or a message of a stream.

    Raises:
        RpcError: PERMISSION_DENIED, if it isn't.
    """
    for key, value in metadata:
        if key != VIEWER:
            continue
        viewers = VIEWERS.get(method)
        if viewers is None:
            reason = "a token that names a viewer can't call this method"
            raise RpcError(grpc.StatusCode.PERMISSION_DENIED, reason)
        named = unquote(value)
        if any(viewer != named for viewer in viewers(request)):
            reason = "the token names another viewer than the request"
            raise RpcError(grpc.StatusCode.PERMISSION_DENIED, reason)
