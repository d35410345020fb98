"""Videos that the release doesn't have: the nearest to the viewer tower's embedding.

They aren't rows of the release, so that they join its candidates last: as row n + r for row r of
the side table, with the exact inner product as two-tower score, and otherwise neutral scores.
"""

from __future__ import annotations

import math

import numpy as np

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.recommend.candidates import Candidates, UInt32Array
from vireo.server.recommend.catalogue.live_videos import LiveVideos
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.signals import NEW, ORDERING, SCORES, SOURCES, TRENDING

_FILLER = next(source.bit for source in SOURCES if source.quota is None)
"""Bit of the source that fills what the quotas leave."""


def join(query: Retrieval, live: LiveVideos, found: Candidates) -> Candidates:
    """Return `count` candidates with the best new videos among them, best first."""
    table, count = live.table, query.query.count
    usable = usable_rows(query, live)
    nearest, trending = propose(query, live, usable, limits(count))
    masks = dict.fromkeys(nearest.tolist(), NEW.bit)
    for row in trending.tolist():
        masks[row] = masks.get(row, 0) | TRENDING.bit
    for row in table.rows_of(query.query.pinned_keys).tolist():
        if usable[row]:
            masks.setdefault(row, 0)
    if not masks:
        return found
    rows = np.array(list(masks), np.int64)
    scores = {score.name: np.full(len(rows), score.neutral, np.float32) for score in SCORES}
    scores[ORDERING] = table.vectors.take(rows, axis=0) @ query.vector
    new = Candidates(
        table.keys.take(rows),
        rows + len(query.release.keys),
        np.array(list(masks.values()), np.uint32),
        scores,
    )
    kept = _kept(found.source_masks, max(0, count - len(new)))
    every = Candidates.concatenate([found.take(kept), new])
    order = np.argsort(-every.scores[ORDERING], kind="stable")
    return every.take(order[:count])  # rules may pin more new videos than there is room for


def usable_rows(query: Retrieval, live: LiveVideos) -> BoolArray:
    """Return which rows of the side table are new videos that the query allows, bool[count].

    Those that aren't published yet never are.
    """
    table = live.table
    usable = table.new[: table.count].copy()
    usable[table.rows_of(query.unknown)] = False
    if (unpublished := query.release.embargo.unpublished().slots).any():
        usable &= ~unpublished.take(table.slots[: table.count])
    if query.applied is not None and query.applied.changed is not None:
        usable &= query.applied.changed.held.take(table.slots[: table.count])
    return usable


def propose(
    query: Retrieval, live: LiveVideos, usable: BoolArray, limits: tuple[int, int]
) -> tuple[Int64Array, Int64Array]:
    """Return usable rows, best first: so many that are near, and so many that are trending."""
    near, trending = limits
    rows = live.table.rows_of(live.trending(query.query.locale).others)
    return live.table.nearest(query.vector, near, usable), rows[usable[rows]][:trending]


def _kept(masks: UInt32Array, count: int) -> Int64Array:
    """Return the places of `count` candidates: the last that fill what quotas leave go first."""
    places = np.arange(len(masks))
    kept: Int64Array = np.sort(np.lexsort((places, masks == _FILLER))[:count])
    return kept


def limits(count: int) -> tuple[int, int]:
    """Return how many of `count` candidates NEW and TRENDING may propose beside the release."""
    return math.floor((NEW.quota or 0.0) * count), math.floor((TRENDING.quota or 0.0) * count)
