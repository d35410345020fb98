"""What is trending: counts of watches and likes that halve in a given time, bounded in number.

The count of an event at time t is kept as 2 ** ((t - landmark) / half_life): older events weigh
less for ever after, without touching any count as time passes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from vireo.server.event_log.log import BEGIN, Position
from vireo.server.recommend.catalogue.locales import normal_locale
from vireo.v1 import log_pb2

MAX_VIDEOS = 5_000
"""Videos that are counted for each locale; twice as many between two clean-ups. The lightest are
forgotten first."""
MAX_LOCALES = 64
"""Locales that are counted; the lightest is forgotten for a new one."""
LISTED_VIDEOS, LISTED_LOCALES, LISTED_LOCALE_VIDEOS = 500, 16, 100
"""What is published: the heaviest videos of all, and those of the heaviest locales."""
MAX_SHOWN_PAIRS = 50_000
"""Last pairs of a viewer and a new video that are remembered, so that each counts once."""
MAX_NEW_VIDEOS = 20_000
"""New videos whose impressions are counted; those shown least are forgotten first."""
_MAX_EXPONENT = 500.0
"""Half-lives by which an event may lie beside the landmark; weights stay within a float's range."""


@dataclass(slots=True)
class _Counts:
    """Weights of one locale's videos, in units of the landmark."""

    total: float = 0.0
    weights: dict[int, float] = field(default_factory=dict)

    def add(self, key: int, weight: float) -> None:
        self.total += weight
        self.weights[key] = self.weights.get(key, 0.0) + weight
        if len(self.weights) > 2 * MAX_VIDEOS:
            self.weights = dict(self.heaviest(MAX_VIDEOS))

    def heaviest(self, count: int) -> list[tuple[int, float]]:
        """Return the heaviest videos and their weights; ties by key."""
        return heapq.nsmallest(count, self.weights.items(), key=lambda each: (-each[1], each[0]))

    def scale(self, factor: float) -> None:
        self.total *= factor
        self.weights = {key: weight * factor for key, weight in self.weights.items()}


class TrendingCounts:
    """Counts of one partition's events. Positions of the log tell which events are in."""

    def __init__(self, half_life: float) -> None:
        """Count nothing yet; `half_life` is in seconds."""
        self.position = BEGIN
        """Position in the log up to which events are counted."""
        self._half_life = half_life
        self._landmark = 0.0
        self._all = _Counts()
        self._locales: dict[str, _Counts] = {}
        self._impressions: dict[int, int] = {}
        self._pairs: dict[int, None] = {}

    def add(self, key: int, at: float, locale: str = "") -> None:
        """Count a watch or a like of a video at a time, Unix seconds, in all and in a locale."""
        exponent = (at - self._landmark) / self._half_life
        if not self._all.weights or exponent > _MAX_EXPONENT:
            self._move_landmark(at)
            exponent = 0.0
        weight = _power(max(exponent, -_MAX_EXPONENT))
        self._all.add(key, weight)
        if locale:
            self._of(normal_locale(locale)).add(key, weight)

    def show(self, pairs: Iterable[tuple[str, int]], new: Container[int]) -> None:
        """Count impressions of videos that are new: pairs of a viewer and a video's key.

        A viewer counts once for each video, so that nobody takes a new video's positions from it
        by looking at it again and again.
        """
        for pair in pairs:
            key, known = pair[1], hash(pair)
            if key not in new or known in self._pairs:
                continue
            self._pairs[known] = None
            if len(self._pairs) > MAX_SHOWN_PAIRS:
                del self._pairs[next(iter(self._pairs))]
            self._impressions[key] = self._impressions.get(key, 0) + 1
        if len(self._impressions) > 2 * MAX_NEW_VIDEOS:
            kept = heapq.nlargest(MAX_NEW_VIDEOS, self._impressions.items(), key=lambda it: it[1])
            self._impressions = dict(kept)

    def message(self, now: float) -> log_pb2.Trending:
        """Return what to publish at a time, Unix seconds."""
        # After the clock was set back, what was counted until then counts as of now.
        self._landmark = min(self._landmark, now)
        scale = _power((self._landmark - now) / self._half_life)
        shown = heapq.nlargest(MAX_NEW_VIDEOS, self._impressions.items(), key=lambda it: it[1])
        message = log_pb2.Trending(
            counted=str(self.position),
            lists=[_list("", self._all, LISTED_VIDEOS, scale)],
            new_keys=[key for key, _ in shown],
            new_impressions=[count for _, count in shown],
        )
        message.at.FromNanoseconds(round(now * 1e9))
        busiest = heapq.nlargest(
            LISTED_LOCALES, self._locales.items(), key=lambda each: (each[1].total, each[0])
        )
        message.lists.extend(
            _list(locale, counts, LISTED_LOCALE_VIDEOS, scale) for locale, counts in busiest
        )
        return message

    @staticmethod
    def restored(message: log_pb2.Trending, half_life: float) -> TrendingCounts:
        """Return the counts as they were published last; videos beyond the lists begin again at 0.

        Raises:
            ValueError: its position is none.
        """
        counts = TrendingCounts(half_life)
        counts.position = Position.parse(message.counted)
        counts._landmark = message.at.ToNanoseconds() / 1e9
        for each in message.lists:
            own = counts._of(each.locale) if each.locale else counts._all
            own.weights = dict(zip(each.keys, each.weights, strict=True))
            own.total = sum(own.weights.values())
        counts._impressions = dict(zip(message.new_keys, message.new_impressions, strict=True))
        return counts

    def _of(self, locale: str) -> _Counts:
        counts = self._locales.get(locale)
        if counts is None:
            if len(self._locales) >= MAX_LOCALES:
                lightest = min(self._locales, key=lambda each: self._locales[each].total)
                del self._locales[lightest]
            counts = self._locales[locale] = _Counts()
        return counts

    def _move_landmark(self, to: float) -> None:
        factor = _power((self._landmark - to) / self._half_life)
        self._landmark = to
        for counts in (self._all, *self._locales.values()):
            counts.scale(factor)


def _power(exponent: float) -> float:
    """Return 2 ** exponent; as of the largest exponent instead of an OverflowError."""
    return math.pow(2.0, min(exponent, _MAX_EXPONENT))


def _list(locale: str, counts: _Counts, limit: int, scale: float) -> log_pb2.TrendingVideos:
    heaviest = counts.heaviest(limit)
    return log_pb2.TrendingVideos(
        locale=locale,
        keys=[key for key, _ in heaviest],
        weights=[weight * scale for _, weight in heaviest],
    )
