"""The messages on the wire.

They are built from descriptors in this package instead of generated code, which supports few
versions of protobuf, and in a descriptor pool of their own, since the process may have other stubs
of the same protos or of google.rpc.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vireo_client._generated import (
        catalog_pb2,
        error_details_pb2,
        event_pb2,
        filter_pb2,
        recommendation_pb2,
        status_pb2,
    )

    BadRequest = error_details_pb2.BadRequest
    BatchRecommendRequest = recommendation_pb2.BatchRecommendRequest
    BatchRecommendResponse = recommendation_pb2.BatchRecommendResponse
    ErrorInfo = error_details_pb2.ErrorInfo
    EventMessage = event_pb2.Event
    ExplainVideoRequest = recommendation_pb2.ExplainVideoRequest
    ExplainVideoResponse = recommendation_pb2.ExplainVideoResponse
    ExplanationMessage = recommendation_pb2.Explanation
    FilterMessage = filter_pb2.Filter
    ProfileMessage = recommendation_pb2.RequestProfile
    RecommendRequest = recommendation_pb2.RecommendRequest
    RecommendResponse = recommendation_pb2.RecommendResponse
    RecordEventsRequest = event_pb2.RecordEventsRequest
    RecordEventsResponse = event_pb2.RecordEventsResponse
    RemoveVideosRequest = catalog_pb2.RemoveVideosRequest
    RemoveVideosResponse = catalog_pb2.RemoveVideosResponse
    RetryInfo = error_details_pb2.RetryInfo
    SimilarVideosRequest = recommendation_pb2.SimilarVideosRequest
    SimilarVideosResponse = recommendation_pb2.SimilarVideosResponse
    SlateItemMessage = recommendation_pb2.SlateItem
    Status = status_pb2.Status
    StreamEventsRequest = event_pb2.StreamEventsRequest
    StreamEventsResponse = event_pb2.StreamEventsResponse
    TaskScoresMessage = recommendation_pb2.TaskScores
    UpsertVideosRequest = catalog_pb2.UpsertVideosRequest
    UpsertVideosResponse = catalog_pb2.UpsertVideosResponse
    VideoMessage = catalog_pb2.Video
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
