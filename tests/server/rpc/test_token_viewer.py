"""Which methods a token that names its viewer may call, and for whom."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor import Descriptor

from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.token_viewer import VIEWER, VIEWERS, check_viewer
from vireo.v1 import catalog_pb2, event_pb2, recommendation_pb2, release_pb2

PUBLIC = (recommendation_pb2, event_pb2, catalog_pb2, release_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method.input_type
    for file in PUBLIC
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def named(message: Descriptor) -> Iterator[str]:
    """The fields within a message that have viewers."""
    for field in message.fields:
        if field.name in ("viewer_id", "viewer_ids"):
            yield field.full_name
        elif field.message_type is not None and not field.message_type.name.startswith("Filter"):
            yield from named(field.message_type)  # filters may hold filters


def test_every_public_method_with_a_viewer_declares_it() -> None:
    with_viewer = {path for path, request in METHODS.items() if any(named(request))}
    without = {"/vireo.v1.RecommendationService/SimilarVideos"}
    assert VIEWERS.keys() == with_viewer | without
    for path in with_viewer:
        assert len(list(named(METHODS[path]))) == 1, f"{path} may need more than one of them"


@pytest.mark.parametrize("path", [*sorted(METHODS.keys() - VIEWERS.keys()), "/vireo.v1.New/Method"])
def test_a_method_that_declares_no_viewer_is_denied(path: str) -> None:
    request = recommendation_pb2.RecommendRequest(viewer_id="1")
    check_viewer(path, (), request)
    with pytest.raises(RpcError, match="one viewer") as raised:
        check_viewer(path, ((VIEWER, "1"),), request)
    assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED


def test_each_viewer_of_a_request_counts_and_each_that_is_named() -> None:
    path = "/vireo.v1.EventService/RecordEvents"
    events = [event_pb2.Event(viewer_id="é"), event_pb2.Event(viewer_id="é")]
    check_viewer(path, ((VIEWER, "%c3%a9"),), event_pb2.RecordEventsRequest(events=events))
    events.append(event_pb2.Event(viewer_id="e"))
    for metadata in (((VIEWER, "%c3%a9"),), ((VIEWER, "%c3%a9"), (VIEWER, "e"))):
        with pytest.raises(RpcError, match="one viewer"):
            check_viewer(path, metadata, event_pb2.RecordEventsRequest(events=events))
