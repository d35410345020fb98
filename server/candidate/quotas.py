"""The union of the sources' proposals, with a guaranteed share for each."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from server import signals
from server.arrays import Int64Array
from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates
from server.releases.weights import Quotas


class Union:
    """Merges proposals into at most `count` videos, those that are proposed first.

    A mask has all sources that proposed the video.
    """

    name = "union"

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """Return one candidate per video, in the order of the proposals."""
        earliest = _earliest(candidates.rows, len(query.release.keys))
        # No source proposes a video twice, so the sum of its bits is their union.
        masks = np.bincount(earliest, candidates.source_masks, len(earliest)).astype(np.uint32)
        merged = Candidates(candidates.keys, candidates.rows, masks)
        return merged.take(_firsts(earliest)[: query.query.count])


class QuotaMerge:
    """Merges proposals of any number into `count` videos, if there are as many.

    First comes the union of the quotas and of the source without one. If it doesn't suffice,
    because a source failed, the proposals beyond the quotas fill up. A mask has the sources that
    proposed the video within their quota; a filler has its own source's bit.
    """

    name = "merge"

    def __init__(self, quotas: Quotas) -> None:
        """Merge by these shares."""
        self._shares = [(source.bit, share) for source, share in shares(quotas)]
        self._union = Union()

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """Return one candidate per video, in this order.

        Args:
            query: whose count it is.
            candidates: those of each source together, best first.
        """
        count = query.query.count
        masks = candidates.source_masks
        turns = (masks[1:] != masks[:-1]).nonzero()[0] + 1
        bounds = pairwise([0, *turns.tolist(), len(masks)])
        spans = {int(masks[start]): (start, end) for start, end in bounds if end}
        first, rest = [], []
        for bit, share in self._shares:
            start, end = spans.get(bit, (0, 0))
            within = min(end, start + quota(share, count))
            first.append(np.arange(start, within))
            rest.append(np.arange(within, end))
        union = self._union.select(query, candidates.take(np.concatenate(first)))
        if len(union) < count:
            fillers = candidates.take(np.concatenate(rest))
            fillers = fillers.take(np.isin(fillers.rows, union.rows, invert=True).nonzero()[0])
            earliest = _earliest(fillers.rows, len(query.release.keys))
            fillers = fillers.take(_firsts(earliest)[: count - len(union)])
            union = Candidates.concatenate([union, fillers])
        return union


def shares(quotas: Quotas) -> list[tuple[signals.Source, float | None]]:
    """Return each source and its share, in the order of the union: None, for the rest, last."""
    each = [(source, quotas.root.get(source.name)) for source in signals.SOURCES]
    return sorted(each, key=lambda one: one[1] is None)


def quota(share: float | None, count: int) -> int:
    """Return how many of `count` candidates a source with this share may propose."""
    return count if share is None else math.floor(share * count)


def _earliest(rows: Int64Array, videos: int) -> Int64Array:
    """Return the place of the first of equal `rows` for each of them, int64[m]."""
    # Of a column of all videos only what is read is written: it takes no time to make.
    place = np.empty(videos, np.int64)
    place[rows[::-1]] = np.arange(len(rows))[::-1]  # if rows are equal, the last one counts
    earliest: Int64Array = place.take(rows)
    return earliest


def _firsts(earliest: Int64Array) -> Int64Array:
    """Return the places that are the first of their row, ascending."""
    places: Int64Array = (earliest == np.arange(len(earliest))).nonzero()[0]
    return places
