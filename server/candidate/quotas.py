"""The union of the sources' proposals, with a guaranteed share for each."""

from __future__ import annotations

import math

import numpy as np

from server import signals
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
        """Return one candidate per video, in this order."""
        count = query.query.count
        first, rest = [], []
        for bit, share in self._shares:
            proposed = np.flatnonzero(candidates.source_masks == bit)
            quota = count if share is None else math.floor(share * count)
            first.append(proposed[:quota])
            rest.append(proposed[quota:])
        union = _union(candidates.take(np.concatenate(first)))
        if len(union) < count:
            known = union.rows
            fillers = candidates.take(np.concatenate(rest))
            fillers = fillers.take(np.isin(fillers.rows, known, invert=True))
            places = np.unique(fillers.rows, return_index=True)[1]
            union = Candidates.concatenate([union, fillers.take(np.sort(places))])
        return union.take(np.arange(min(count, len(union))))


def _union(proposals: Candidates) -> Candidates:
    """Return one candidate per video, in the order of first proposals, with the bits of all."""
    if not len(proposals):
        return proposals
    by_row = np.argsort(proposals.rows, kind="stable")
    rows = proposals.rows[by_row]
    begins = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))  # first place of each video
    masks = np.bitwise_or.reduceat(proposals.source_masks[by_row], begins)
    places = by_row[begins]
    order = np.argsort(places)
    chosen = places[order]
    return Candidates(proposals.keys[chosen], proposals.rows[chosen], masks[order])
