"""What is trending, merged from what the consumers of all partitions publish."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from vireo.server.arrays import Float64Array, Int64Array
from vireo.v1.log_pb2 import Trending

log = structlog.get_logger()

OVERALL = ""
"""Locale of what is counted of all events."""
MAX_TAG = 35
"""Maximum length of a locale's tag, as the protos have it; of a longer one the begin counts."""
KEY = "trending."
"""Begin of the keys in STATE; the partition follows."""
MAX_VIDEOS = 500
"""Length of the merged lists."""
MERGE_SECONDS = 1.0
"""Minimum seconds between two merges: each partition publishes once a second."""
MIN_LOCALE_WEIGHT = 5.0
"""Minimum weight of a video in a locale's list, that of as many watches of this moment: one play in
a locale where little is played doesn't put a video on top."""

Lists = Mapping[str, Int64Array]
"""Keys of the trending videos by locale, the heaviest first, int64[m]."""


def normal_locale(tag: str) -> str:
    """Return a language tag in the form in which what is trending is counted and looked up.

    `de_CH`, as POSIX and Java have it, is the same locale as `de-CH` or `de-ch`.
    """
    return tag[:MAX_TAG].replace("_", "-").lower()


def locales_of(tag: str) -> tuple[str, str, str]:
    """Return a locale, its language, and that of everything."""
    locale = normal_locale(tag)
    return locale, locale.partition("-")[0], OVERALL


@dataclass(frozen=True, slots=True)
class _Published:
    """What one consumer published last."""

    at: int
    """Unix seconds."""
    lists: Mapping[str, tuple[Int64Array, Float64Array]]
    """Keys and weights by locale."""
    impressions: Mapping[int, int]
    """Number by key."""


class Trends:
    """Trending videos by locale, and impressions of new videos. Use it from one event loop."""

    def __init__(self, half_life: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any; `half_life` in seconds is that of the consumers."""
        self._half_life, self._clock = half_life, clock
        self._published: dict[str, _Published] = {}
        self._changed = False
        self._merged_at = -np.inf
        self._lists: Lists = {}

    def update(self, key: str, data: bytes) -> None:
        """Apply a message of STATE; those without KEY's prefix are ignored."""
        if not key.startswith(KEY):
            return
        try:
            message = Trending.FromString(data)
        except DecodeError:
            log.warning("what is trending can't be read", key=key)
            return
        if all(len(each.keys) == len(each.weights) for each in message.lists):
            self._published[key] = _Published(
                message.at.seconds,
                {
                    each.locale: (np.array(each.keys[:], np.int64), np.array(each.weights[:]))
                    for each in message.lists
                },
                dict(zip(message.new_keys[:], message.new_impressions[:], strict=False)),
            )
            self._changed = True

    @property
    def lists(self) -> Lists:
        """The merged lists; another object after a change."""
        now = self._clock()
        if self._changed and now - self._merged_at >= MERGE_SECONDS:
            self._changed, self._merged_at = False, now
            self._lists = self._merged()
        return self._lists

    def impressions(self, key: int) -> int:
        """Return the number of impressions of a video that came by UpsertVideos."""
        return sum(each.impressions.get(key, 0) for each in self._published.values())

    def _merged(self) -> Lists:
        latest = max(each.at for each in self._published.values())
        parts: dict[str, list[tuple[Int64Array, Float64Array]]] = defaultdict(list)
        for each in self._published.values():
            factor = 0.5 ** ((latest - each.at) / self._half_life)
            for locale, (keys, weights) in each.lists.items():
                parts[locale].append((keys, factor * weights))
        lists = {
            locale: _heaviest(some, 0.0 if locale == OVERALL else MIN_LOCALE_WEIGHT)
            for locale, some in parts.items()
        }
        return {locale: keys for locale, keys in lists.items() if len(keys)}


def _heaviest(parts: list[tuple[Int64Array, Float64Array]], least: float) -> Int64Array:
    """Return the keys with the largest sums of weights, largest first, ties by key.

    Those with sums under `least` are left out.
    """
    keys, places = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    sums = np.bincount(places, np.concatenate([weights for _, weights in parts]), len(keys))
    order: Int64Array = np.lexsort((keys, -sums))[:MAX_VIDEOS]
    return keys[order[sums[order] >= least]]
