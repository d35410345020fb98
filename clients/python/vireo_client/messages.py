"""The messages on the wire.

They are built from descriptors in this package instead of generated code, which supports few
versions of protobuf, and in a descriptor pool of their own, since the process may have other stubs
of the same protos or of google.rpc.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vireo_client._generated.error_details_pb2 import BadRequest, RetryInfo
    from vireo_client._generated.recommendation_pb2 import Explanation as ExplanationMessage
    from vireo_client._generated.recommendation_pb2 import (
        RecommendRequest,
        RecommendResponse,
    )
    from vireo_client._generated.recommendation_pb2 import SlateItem as SlateItemMessage
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
    ExplanationMessage = _message("vireo.v1.Explanation")
    RecommendRequest = _message("vireo.v1.RecommendRequest")
    RecommendResponse = _message("vireo.v1.RecommendResponse")
    RetryInfo = _message("google.rpc.RetryInfo")
    SlateItemMessage = _message("vireo.v1.SlateItem")
    Status = _message("google.rpc.Status")

SERVICE = "vireo.v1.RecommendationService"
RECOMMEND = f"/{SERVICE}/Recommend"
"""Path of the method."""

__all__ = [
    "RECOMMEND",
    "SERVICE",
    "BadRequest",
    "ExplanationMessage",
    "RecommendRequest",
    "RecommendResponse",
    "RetryInfo",
    "SlateItemMessage",
    "Status",
]
