"""The messages on the wire.

They are built from descriptors in this package instead of generated code, which supports few
versions of protobuf, and in a descriptor pool of their own, since the process may have other stubs
of the same protos or of google.rpc.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vireo_client._generated.catalog_pb2 import (
        RemoveVideosRequest,
        RemoveVideosResponse,
        UpsertVideosRequest,
        UpsertVideosResponse,
    )
    from vireo_client._generated.catalog_pb2 import Video as VideoMessage
    from vireo_client._generated.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
    from vireo_client._generated.event_pb2 import Event as EventMessage
    from vireo_client._generated.event_pb2 import (
        RecordEventsRequest,
        RecordEventsResponse,
        StreamEventsRequest,
        StreamEventsResponse,
    )
    from vireo_client._generated.filter_pb2 import Filter as FilterMessage
    from vireo_client._generated.recommendation_pb2 import (
        BatchRecommendRequest,
        BatchRecommendResponse,
        ExplainVideoRequest,
        ExplainVideoResponse,
        RecommendRequest,
        RecommendResponse,
        SimilarVideosRequest,
        SimilarVideosResponse,
    )
    from vireo_client._generated.recommendation_pb2 import Explanation as ExplanationMessage
    from vireo_client._generated.recommendation_pb2 import RequestProfile as ProfileMessage
    from vireo_client._generated.recommendation_pb2 import SlateItem as SlateItemMessage
    from vireo_client._generated.recommendation_pb2 import TaskScores as TaskScoresMessage
    from vireo_client._generated.status_pb2 import Status
else:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    _pool = DescriptorPool()
    _packaged = resources.files("vireo_client._generated").joinpath("descriptors.binpb")
    for _file in FileDescriptorSet.FromString(_packaged.read_bytes()).file:
        _pool.AddSerializedFile(_file.SerializeToString())

    def _message(name: str) -> type:
        return GetMessageClass(_pool.FindMessageTypeByName(name))

    BadRequest = _message("google.rpc.BadRequest")
    BatchRecommendRequest = _message("vireo.v1.BatchRecommendRequest")
    BatchRecommendResponse = _message("vireo.v1.BatchRecommendResponse")
    ErrorInfo = _message("google.rpc.ErrorInfo")
    EventMessage = _message("vireo.v1.Event")
    ExplainVideoRequest = _message("vireo.v1.ExplainVideoRequest")
    ExplainVideoResponse = _message("vireo.v1.ExplainVideoResponse")
    ExplanationMessage = _message("vireo.v1.Explanation")
    FilterMessage = _message("vireo.v1.Filter")
    ProfileMessage = _message("vireo.v1.RequestProfile")
    RecommendRequest = _message("vireo.v1.RecommendRequest")
    RecommendResponse = _message("vireo.v1.RecommendResponse")
    RecordEventsRequest = _message("vireo.v1.RecordEventsRequest")
    RecordEventsResponse = _message("vireo.v1.RecordEventsResponse")
    RemoveVideosRequest = _message("vireo.v1.RemoveVideosRequest")
    RemoveVideosResponse = _message("vireo.v1.RemoveVideosResponse")
    RetryInfo = _message("google.rpc.RetryInfo")
    SimilarVideosRequest = _message("vireo.v1.SimilarVideosRequest")
    SimilarVideosResponse = _message("vireo.v1.SimilarVideosResponse")
    SlateItemMessage = _message("vireo.v1.SlateItem")
    Status = _message("google.rpc.Status")
    StreamEventsRequest = _message("vireo.v1.StreamEventsRequest")
    StreamEventsResponse = _message("vireo.v1.StreamEventsResponse")
    TaskScoresMessage = _message("vireo.v1.TaskScores")
    UpsertVideosRequest = _message("vireo.v1.UpsertVideosRequest")
    UpsertVideosResponse = _message("vireo.v1.UpsertVideosResponse")
    VideoMessage = _message("vireo.v1.Video")

__all__ = [
    "BadRequest",
    "BatchRecommendRequest",
    "BatchRecommendResponse",
    "ErrorInfo",
    "EventMessage",
    "ExplainVideoRequest",
    "ExplainVideoResponse",
    "ExplanationMessage",
    "FilterMessage",
    "ProfileMessage",
    "RecommendRequest",
    "RecommendResponse",
    "RecordEventsRequest",
    "RecordEventsResponse",
    "RemoveVideosRequest",
    "RemoveVideosResponse",
    "RetryInfo",
    "SimilarVideosRequest",
    "SimilarVideosResponse",
    "SlateItemMessage",
    "Status",
    "StreamEventsRequest",
    "StreamEventsResponse",
    "TaskScoresMessage",
    "UpsertVideosRequest",
    "UpsertVideosResponse",
    "VideoMessage",
]
