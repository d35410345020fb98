"""What requests for slates cost beyond a plain slate: filters that no pod has evaluated yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from cachetools import LRUCache
from google.protobuf.message import Message
from vireo.v1 import filter_pb2
from vireo.v1 import recommendation_pb2 as pb

from server.gateway.release import GatewayRelease
from server.releases.layout import VIDEO_KEYS
from server.releases.loader import ReleaseLoader

_TERM_SECONDS = 5e-9
"""Cost of a value or bound of a filter for each video."""
_MIN_SECONDS = 1e-3
"""Cost below which a filter isn't worth a charge."""
_KNOWN = 32
"""Number of filters that pods surely keep: for a million videos each may take 1 MB."""


class SlateCosts:
    """The costs of a gateway's requests. Use it from one event loop."""

    def __init__(self, loader: ReleaseLoader[GatewayRelease]) -> None:
        """Judge by the release that the loader serves."""
        self._loader = loader
        self._known: LRUCache[bytes, None] = LRUCache(_KNOWN)

    def of(self, request: Message) -> float:
        """Return what a valid request costs in seconds; 0 for a plain slate."""
        asked = request.request if isinstance(request, pb.ExplainVideoRequest) else request
        assert isinstance(
            asked, pb.RecommendRequest | pb.SimilarVideosRequest | pb.BatchRecommendRequest
        )
        serving = self._loader.serving
        if serving is None or not asked.HasField("filter"):
            return 0.0
        size = serving.content.manifest.files[VIDEO_KEYS].size
        cost = sum(_terms(asked.filter)) * size / 8 * _TERM_SECONDS
        if cost < _MIN_SECONDS:
            return 0.0
        digest = hashlib.blake2b(
            asked.filter.SerializeToString(deterministic=True), digest_size=16
        ).digest()
        if digest in self._known:
            return 0.0
        self._known[digest] = None
        return cost


def _terms(message: filter_pb2.Filter) -> Iterator[int]:
    """Yield the numbers of values and bounds in a filter, and in those within it."""
    for each in message.conditions:
        yield len(each.any_of) + len(each.all_of) + len(each.none_of)
        yield each.HasField("min") + each.HasField("max")
    for inner in (*message.any, *message.none):
        yield from _terms(inner)
