"""What requests for slates cost beyond a plain slate: filters that no pod has evaluated yet."""

from __future__ import annotations

from google.protobuf.message import Message
from vireo.v1 import recommendation_pb2 as pb

from server.gateway.release import GatewayRelease, digest_of
from server.releases.layout import VIDEO_KEYS
from server.releases.loader import ReleaseLoader

_BYTE_SECONDS, _VIDEO_SECONDS = 4e-6, 6e-10
"""Cost of a byte of a filter, and that for each video: a value takes some 8 bytes, and 5 ns."""
_MIN_SECONDS = 1e-3
"""Cost below which a filter isn't worth a charge."""


class SlateCosts:
    """The costs of a gateway's requests. Use it from one event loop."""

    def __init__(self, loader: ReleaseLoader[GatewayRelease]) -> None:
        """Judge by the release that the loader serves."""
        self._loader = loader

    def of(self, request: Message) -> float:
        """Return what a valid request costs in seconds; 0 for a plain slate."""
        asked = request.request if isinstance(request, pb.ExplainVideoRequest) else request
        assert isinstance(
            asked, pb.RecommendRequest | pb.SimilarVideosRequest | pb.BatchRecommendRequest
        )
        serving = self._loader.serving
        if serving is None or not asked.HasField("filter"):
            return 0.0
        videos = serving.content.manifest.files[VIDEO_KEYS].size / 8
        cost = asked.filter.ByteSize() * (_BYTE_SECONDS + videos * _VIDEO_SECONDS)
        if cost < _MIN_SECONDS or digest_of(asked.filter) in serving.content.evaluated:
            return 0.0
        return cost
