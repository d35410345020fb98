"""What is trending, merged from what the consumers of all partitions tell."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np
import structlog
from google.protobuf.message import DecodeError
from vireo.v1.log_pb2 import Trending

from server.arrays import Int64Array

log = structlog.get_logger()

KEY = "trending."
"""Begin of the keys in STATE; the partition follows."""
MAX_VIDEOS = 500
"""Length of the merged lists."""
MERGE_SECONDS = 1.0
"""Minimum seconds between two merges: each partition tells once a second."""
OVERALL = ""
"""Locale of the list of all events."""

Lists = Mapping[str, Int64Array]
"""Keys of the trending videos by locale, the heaviest first, int64[m]."""


class Trends:
    """Trending videos by locale, and impressions of new videos. Use it from one event loop."""

    def __init__(self, half_life: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any; `half_life` in seconds is that of the consumers."""
        self._half_life, self._clock = half_life, clock
        self._told: dict[str, Trending] = {}
        self._changed = False
        self._merged_at = -np.inf
        self._lists: Lists = {}
        self._impressions: dict[int, int] = {}

    def hear(self, key: str, data: bytes) -> None:
        """Take in a message of STATE; others than KEY's don't matter here."""
        if not key.startswith(KEY):
            return
        try:
            told = Trending.FromString(data)
        except DecodeError:
            log.warning("what is trending can't be read", key=key)
            return
        if all(len(each.keys) == len(each.weights) for each in told.lists):
            self._told[key] = told
            self._changed = True

    @property
    def lists(self) -> Lists:
        """The merged lists; another object after a change."""
        self._merge()
        return self._lists

    @property
    def impressions(self) -> Mapping[int, int]:
        """Number of impressions of videos that came by UpsertVideos, by key."""
        self._merge()
        return self._impressions

    def _merge(self) -> None:
        now = self._clock()
        if not self._changed or now - self._merged_at < MERGE_SECONDS:
            return
        self._changed, self._merged_at = False, now
        self._impressions = {}
        weights: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        latest = max(told.at.seconds for told in self._told.values())
        for told in self._told.values():
            factor = 0.5 ** ((latest - told.at.seconds) / self._half_life)
            for each in told.lists:
                merged = weights[each.locale]
                for key, weight in zip(each.keys, each.weights, strict=True):
                    merged[key] += factor * weight
            for key, count in zip(told.new_keys, told.new_impressions, strict=False):
                self._impressions[key] = self._impressions.get(key, 0) + count
        self._lists = {locale: _heaviest(merged) for locale, merged in weights.items()}


def _heaviest(weights: Mapping[int, float]) -> Int64Array:
    keys = np.fromiter(weights.keys(), np.int64, len(weights))
    values = np.fromiter(weights.values(), np.float64, len(weights))
    order: Int64Array = np.lexsort((keys, -values))[:MAX_VIDEOS]
    return keys[order]
