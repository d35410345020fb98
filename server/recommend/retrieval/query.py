"""A query to the candidate pipeline, and what its stages share about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.candidates import best
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.retrieval.allowed import AppliedFilter
from vireo.server.recommend.retrieval.index import (
    RowBits,
    add,
    contains,
    every_row,
    mask_of,
    remove,
)
from vireo.server.recommend.retrieval.release import CandidateRelease

T = TypeVar("T")


def session_vector(
    release: CandidateRelease, viewer: ViewerFeatures, query: CandidateQuery
) -> Float32Array:
    """Return the viewer's embedding, moved by the session, float32[d].

    A video of weight w counts as a watch at the time of the request in a share w of the embedding,
    so that 1 is a watch, and 0 nothing: for each distinct weight the tower reads the history,
    followed by all videos of at least that weight, and its output weighs the difference to the next
    lower weight. A video that is playing stays the last one. Videos of the history, and unknown
    ones, add nothing.
    """
    weights = query.session_weights
    known = ~np.isin(query.session_keys, viewer.history_keys)
    known &= release.rows.find(query.session_keys) >= 0
    levels = np.unique(weights[known & (weights > 0)])[::-1]
    shares = levels - np.append(levels[1:], np.float32(0))
    place = len(viewer.history_keys) - (query.seed_key is not None)
    asked_at = max(viewer.asked_at, *viewer.history_times[-1:].tolist(), 0)
    rest = np.float32(1 - shares.sum())
    vector: Float32Array
    if rest:
        vector = rest * release.viewer_vector(viewer)
    else:  # there is a weight of 1: without the session the tower needn't run
        vector = np.zeros(release.vectors.shape[1], np.float32)
    for level, share in zip(levels, shares, strict=True):
        keys = query.session_keys[known & (weights >= level)]
        longer = replace(
            viewer,
            history_keys=np.insert(viewer.history_keys, place, keys),
            history_times=np.insert(viewer.history_times, place, [asked_at] * len(keys)),
        )
        vector += share * release.viewer_vector(longer)
    return vector


class UnknownSeedError(Exception):
    """The seed video isn't in the release."""


@dataclass(frozen=True)
class CandidateQuery:
    """A request for candidates."""

    viewer: ViewerFeatures
    count: int
    """Maximum number of candidates to return."""
    excluded_keys: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    """Videos not to return besides the watched ones, int64[e]."""
    seed_key: int | None = None
    """The video that is playing, which the candidates follow; None on HOME."""
    locale: str = ""
    """BCP 47 language tag, for what is trending there; empty if unknown."""
    filter: FilterExpression | None = None
    """What holds for each candidate, by attributes that the release declares; None for any."""
    pinned_keys: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    """Videos that are candidates if the query allows them, int64[p]."""
    session_keys: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    """What the viewer came upon in this session, oldest first, int64[s]."""
    session_weights: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))
    """How much each of those counts beside a watch, 0 to 1, float32[s]."""


@dataclass(frozen=True)
class Retrieval:
    """One query against one release; what several stages need is computed once.

    A computation that failed fails again in each stage that needs it.
    """

    release: CandidateRelease
    query: CandidateQuery
    viewer: ViewerFeatures
    """The query's viewer, with the seed as the last video watched."""
    history: Int64Array
    """Row of each video of its history, oldest first, int64[h]; -1 for unknown ones."""
    watched: Int64Array
    """Row of each video of its watched ones, int64[w]; -1 for unknown ones."""
    blocked: Int64Array
    """Rows of the watched, excluded, hidden, removed and unpublished videos, live ones too, and of
    those that the query's filter forbids since they changed, int64[b]."""
    applied: AppliedFilter | None
    """The query's filter; None without one."""
    _made: dict[Callable[[Retrieval], Any], Any] = field(default_factory=dict, init=False)

    @staticmethod
    def of(release: CandidateRelease, query: CandidateQuery) -> Retrieval:
        """Prepare `query`; raise UnknownSeedError if neither release nor log have its seed."""
        viewer = query.viewer.playing(query.seed_key)
        live = release.live
        parts = (viewer.history_keys, viewer.watched_keys, query.excluded_keys, viewer.hidden_keys)
        keys = np.concatenate(parts)
        rows = release.rows.find(keys)  # at once: most of it is by the call
        begin = len(parts[0])
        history, others = rows[:begin], rows[begin:]
        seed = keys[begin - 1 : begin]
        if query.seed_key is not None and history[-1] < 0 and release.find(seed)[0] < 0:
            raise UnknownSeedError(
                f"seed_key {query.seed_key} is not in release {release.manifest.release_id}"
            )
        watched, applied = others[: len(parts[1])], None
        if live is not None:
            others = live.find(keys[begin:], others)
        blocked = others[others >= 0]
        if live is not None:
            blocked = np.concatenate([blocked, live.removed_rows])
        if len(unpublished := release.embargo.unpublished()):
            blocked = np.concatenate([blocked, unpublished])
        if query.filter is not None:
            applied = release.filters.apply(query.filter)
            blocked = np.concatenate([blocked, applied.forbidden_rows])
        return Retrieval(release, query, viewer, history, watched, blocked, applied)

    def without(self, rows: Int64Array, count: int) -> Retrieval:
        """Return this query for `count` other candidates than those of `rows`."""
        blocked = np.concatenate([self.blocked, rows])
        return replace(self, query=replace(self.query, count=count), blocked=blocked)

    @cached_property
    def _not_forbidden(self) -> RowBits:
        """The videos that the query's filter doesn't forbid."""
        if self.applied is None:
            bits = every_row(len(self.release.keys))
        else:
            bits = self.applied.bits.copy()
            add(bits, self.applied.allowed_rows)
        live = self.release.live
        if live is None or not live.count:
            return bits
        new = live.new[: live.count]
        if self.applied is not None:
            new = new & self.applied.live
        return np.concatenate([bits, np.packbits(new, bitorder="little")])

    @cached_property
    def free(self) -> RowBits:
        """The videos that are neither blocked nor forbidden by the query's filter, for searches."""
        free = self._not_forbidden.copy()
        remove(free, self.blocked)
        return free

    def is_free(self, rows: Int64Array) -> BoolArray:
        """Return which of some rows are free, bool[k]."""
        if self.release.index.exact:  # a mask of few videos is made, and read, in less time
            return self._free_mask.take(rows)
        return contains(self.free, rows)

    @cached_property
    def _free_mask(self) -> BoolArray:
        mask = mask_of(self._not_forbidden, self.release.row_count)
        mask[self.blocked] = False
        return mask

    @property
    def free_live(self) -> BoolArray:
        """Whether each live video is free, by its place, bool[m]."""
        live = self.release.live
        assert live is not None
        if self.release.index.exact:
            return self._free_mask[live.first :]
        return mask_of(self.free[live.first // 8 :], live.count)

    @property
    def free_rows(self) -> Int64Array:
        """Rows of the release's free videos, int64[f]."""
        return self._free_mask[: len(self.release.keys)].nonzero()[0]

    @property
    def candidate_rows(self) -> Int64Array:
        """Rows that include all free ones, int64[c]: few if the filter's rows are listed."""
        if self.applied is None or self.applied.listed is None:
            return self.free_rows
        return np.concatenate([self.applied.listed, self.applied.allowed_rows])

    @cached_property
    def history_rows(self) -> Int64Array:
        """Rows of the history that co-watch follows, oldest first: a seed alone if there is one."""
        rows = self.history if self.query.seed_key is None else self.history[-1:]
        return rows[rows >= 0]

    @cached_property
    def watched_rows(self) -> Int64Array:
        """Rows of all watched videos, for EASE, int64[w]: only the seed's if it has one."""
        if self.query.seed_key is not None:
            return self.history_rows
        # One more for unknown ones, which is dropped.
        watched = np.zeros(len(self.release.keys) + 1, np.bool_)
        watched[self.history] = watched[self.watched] = True
        return watched[:-1].nonzero()[0]

    @cached_property
    def vector(self) -> Float32Array:
        """The viewer's embedding, float32[d]."""
        if len(self.query.session_keys):
            return session_vector(self.release, self.viewer, self.query)
        return self.release.viewer_vector(self.viewer, self.history)

    def once(self, compute: Callable[[Retrieval], T]) -> T:
        """Return `compute` of this query, computed on first use."""
        if compute not in self._made:
            self._made[compute] = compute(self)
        made: T = self._made[compute]
        return made

    def scores_of(self, rows: Int64Array, scored: Int64Array, scores: Float32Array) -> Float32Array:
        """Return the score of each of `rows`, 0 for those that aren't among the rows `scored`."""
        # Of a column of all videos only what is read is written: it takes no time to make.
        every = np.empty(self.release.row_count, np.float32)
        every[rows] = 0
        every[scored] = scores
        return every[rows]

    def best(self, rows: Int64Array, scores: Float32Array, limit: int) -> Int64Array:
        """Return the `limit` best of `rows` that are free, best first, ties by key."""
        free = self.is_free(rows).nonzero()[0]
        return best(rows.take(free), scores.take(free), self.release.keys, limit)
