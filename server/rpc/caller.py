"""Who makes a call, which limits are by, and for which viewer: the edge says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.reading import Context, Metadata

CALLER = "x-vireo-caller"
"""Metadata key: the subject of the caller's token, or its address, as the edge knows it."""
MAX_CALLERS = 10_000
"""Maximum callers that a limit tells apart, some 200 bytes each; the least recent are forgotten."""


def caller_of(context: Context) -> str:
    """Return who makes a call; empty if it didn't come through the edge."""
    return caller_in(context.invocation_metadata() or ())


def caller_in(metadata: Metadata) -> str:
    """Return who makes the call that has this metadata; see `caller_of`."""
    for key, value in metadata:
        if key == CALLER:
            return str(value)
    return ""


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
    """Raise PERMISSION_DENIED for a request of another viewer than the caller's token names.

    `method` is the method's path, and `request` may be one message of a stream.
    """
    viewers = VIEWERS.get(method)
    for named in [unquote(value) for key, value in metadata if key == VIEWER]:
        if viewers is None or any(viewer != named for viewer in viewers(request)):
            reason = "the token is for one viewer, and this isn't a request of that viewer alone"
            raise RpcError(grpc.StatusCode.PERMISSION_DENIED, reason)
