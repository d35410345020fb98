"""The gateway's part of a release: manifest, popular list and feature store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cachetools import LRUCache

from vireo.server.features.online_store import RedisSettings
from vireo.server.gateway.fallback import PopularList
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.rules import ActiveRules
from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases.layout import (
    ATTRIBUTES,
    POPULAR_ATTRIBUTES,
    POPULAR_IDS,
    TAKEDOWNS,
    VIDEO_KEYS,
)
from vireo.server.releases.manifest import Manifest
from vireo.v1 import filter_pb2

FILES = (POPULAR_IDS, ATTRIBUTES, POPULAR_ATTRIBUTES, TAKEDOWNS)
"""The files that the gateway needs of a release."""
_MAX_EVALUATED = 32
"""Number of filters that pods surely keep: for a million videos each may take 1 MB."""
_BYTE_SECONDS, _VIDEO_SECONDS = 4e-6, 6e-10
"""Cost of a byte of a filter, and that for each video: a value takes some 8 bytes, and 5 ns."""
_MIN_SECONDS = 1e-3
"""Cost below which a filter isn't worth a charge."""


@dataclass(frozen=True)
class GatewayRelease:
    """Everything that a slate is made from; replaced as a whole."""

    manifest: Manifest
    popular: PopularList
    reader: FeatureReader
    """Features of the data set that the release was trained on."""
    declared: Declared
    """Attributes that videos can be filtered by."""
    merged: int = 0
    """Position in the log of the catalogue's changes up to which it has them; see `Live.merged`."""
    evaluated: LRUCache[bytes, None] = field(default_factory=lambda: LRUCache(_MAX_EVALUATED))
    """Digests of the latest filters that slates were made with."""

    @staticmethod
    def load(
        folder: Path, features: Path, timeout: float, redis: RedisSettings | None = None
    ) -> GatewayRelease:
        """Load it from a release's folder.

        Args:
            folder: the release's folder, with the manifest and FILES at least.
            features: folder with a Feast repository per data set, by its name.
            timeout: maximum seconds for the online store to respond.
            redis: where Redis is; of this process's environment if None.

        Raises:
            ReleaseError: a file of the release is invalid.
            VireoError: the features of its data set are missing.
        """
        manifest = Manifest.read(folder)
        reader = FeatureReader(features / manifest.dataset, timeout, redis)
        return GatewayRelease(manifest, PopularList.load(folder), reader, Declared.read(folder))

    def filter_cost(self, message: filter_pb2.Filter, rules: ActiveRules | None) -> float:
        """Return the cost of a filter in seconds; 0 if it is small, or pods have evaluated it."""
        videos = self.manifest.files[VIDEO_KEYS].size / 8
        cost = message.ByteSize() * (_BYTE_SECONDS + videos * _VIDEO_SECONDS)
        if cost < _MIN_SECONDS or digest_of(message, rules) in self.evaluated:
            return 0.0
        return cost


def digest_of(message: filter_pb2.Filter, rules: ActiveRules | None) -> bytes:
    """Return what stands for a filter as it was sent, and those of the rules: pods join them."""
    of_site = rules.filter.digest if rules and rules.filter else b""
    sent = message.SerializeToString(deterministic=True)
    return hashlib.blake2b(of_site + sent, digest_size=16).digest()
