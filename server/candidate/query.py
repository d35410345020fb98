"""A query to the candidate pipeline, and what its stages share about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.candidate.release import CandidateRelease
from server.features.viewer import ViewerFeatures

T = TypeVar("T")


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


@dataclass(frozen=True)
class Retrieval:
    """One query against one release; what several stages need is computed once.

    A computation that failed fails again in each stage that needs it.
    """

    release: CandidateRelease
    query: CandidateQuery
    viewer: ViewerFeatures
    """The query's viewer, with the seed as the last video watched."""
    history_rows: Int64Array
    """Rows of the history that co-watch follows, oldest first: the seed's alone if there is one."""
    _made: dict[Callable[[Retrieval], Any], Any] = field(default_factory=dict, init=False)

    @staticmethod
    def of(release: CandidateRelease, query: CandidateQuery) -> Retrieval:
        """Prepare `query`; raise UnknownSeedError if the release lacks its seed."""
        if query.seed_key is None:
            found = release.rows.find(query.viewer.history_keys)
            return Retrieval(release, query, query.viewer, found[found >= 0])
        seed_row = release.rows.find(np.array([query.seed_key], np.int64))
        if seed_row[0] < 0:
            raise UnknownSeedError(
                f"seed_key {query.seed_key} is not in release {release.manifest.release_id}"
            )
        return Retrieval(release, query, query.viewer.playing(query.seed_key), seed_row)

    @property
    def wanted(self) -> int:
        """Number that a source proposes so that `count` are left after the filters."""
        blocked = len(self.viewer.watched_keys) + len(self.query.excluded_keys)
        return self.query.count + blocked

    @cached_property
    def blocked_rows(self) -> Int64Array:
        """Rows of the known watched and excluded videos, int64[b]."""
        blocked = np.concatenate([self.viewer.watched_keys, self.query.excluded_keys])
        rows = self.release.rows.find(blocked)
        return rows[rows >= 0]

    @cached_property
    def watched_rows(self) -> Int64Array:
        """Rows of all watched videos, for EASE, int64[w]: the seed's alone if there is one."""
        if self.query.seed_key is not None:
            return self.history_rows
        known = np.union1d(self.viewer.history_keys, self.viewer.watched_keys)
        rows = self.release.rows.find(known)
        return rows[rows >= 0]

    @cached_property
    def vector(self) -> Float32Array:
        """The viewer's embedding, float32[d]."""
        return self.release.viewer_vector(self.viewer)

    def once(self, compute: Callable[[Retrieval], T]) -> T:
        """Return `compute` of this query, computed on first use."""
        if compute not in self._made:
            self._made[compute] = compute(self)
        made: T = self._made[compute]
        return made

    def best(self, rows: Int64Array, scores: Float32Array) -> Int64Array:
        """Return the `wanted` best of `rows` by their `scores`, best first, ties by key."""
        if len(rows) > self.wanted:
            # Sorting all takes several times as long as finding the lowest score that counts.
            reached = scores >= np.partition(scores, -self.wanted)[-self.wanted]
            rows, scores = rows[reached], scores[reached]
        order = np.argsort(-scores)
        if (np.diff(scores[order]) == 0).any():  # rare, and sorting by both takes longer
            order = np.lexsort((self.release.keys[rows], -scores))
        return rows[order[: self.wanted]]
