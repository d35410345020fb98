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


class QuotaMerge:
    """Merges the sources' proposals into `count` videos, if there are as many.

    First come the quotas, then the proposals of the source without one. If they don't suffice,
    because it failed, the others' proposals beyond their quotas fill up. A mask has the sources
    that proposed the video within their quota; a filler has its own source's bit.
    """

    name = "merge"

    def __init__(self, quotas: Quotas) -> None:
        """Merge by these shares."""
        shares = [(source.bit, quotas.root.get(source.name)) for source in signals.SOURCES]
        self._shares = sorted(shares, key=lambda each: each[1] is None)

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """Return one candidate per video, in this order.

        Args:
            query: whose count it is.
            candidates: those of each source together, best first.
        """
        count, videos = query.query.count, len(query.release.keys)
        masks = candidates.source_masks
        turns = (masks[1:] != masks[:-1]).nonzero()[0] + 1
        bounds = pairwise([0, *turns.tolist(), len(masks)])
        spans = {int(masks[start]): (start, end) for start, end in bounds if end}
        first, rest = [], []
        for bit, share in self._shares:
            start, end = spans.get(bit, (0, 0))
            within = min(end, start + (count if share is None else math.floor(share * count)))
            first.append(np.arange(start, within))
            rest.append(np.arange(within, end))
        proposals = candidates.take(np.concatenate(first))
        earliest = _earliest(proposals.rows, videos)
        # No source proposes a video twice, so the sum of its bits is their union.
        bits = np.bincount(earliest, proposals.source_masks, len(proposals)).astype(np.uint32)
        union = Candidates(proposals.keys, proposals.rows, bits).take(_firsts(earliest)[:count])
        if len(union) < count:
            fillers = candidates.take(np.concatenate(rest))
            fillers = fillers.take(np.isin(fillers.rows, union.rows, invert=True).nonzero()[0])
            fillers = fillers.take(_firsts(_earliest(fillers.rows, videos))[: count - len(union)])
            union = Candidates.concatenate([union, fillers])
        return union


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
