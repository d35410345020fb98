"""Candidate sources and scores of the names that `vireo.server.signals` declares.

A source returns the `limit` best rows, best first, without blocked ones. A score is of any videos,
whichever source proposed them; of live ones it is neutral, unless it is that of two_tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.server.features.history_scores import co_watched, summed
from vireo.server.features.looked_up import looked_up
from vireo.server.recommend.candidates import best
from vireo.server.recommend.retrieval.allowed import AppliedFilter
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.signals import COLD_SHARE

if TYPE_CHECKING:
    # Benchmarks' environments lack stubs of the messages that it reads.
    from vireo.server.recommend.catalogue.live_videos import LiveVideos

MAX_LOOKED_UP = 3_000
"""Maximum videos of a filtered search whose vectors are looked up one by one: to scan their cells,
where vectors lie beside each other, takes longer if few of a cell are allowed, and less if most
are."""
_LOOKED_UP_PER_RESULT = 6
"""A search for many results looks that many up for each."""
MAX_FOLLOWED = 20_000
"""Maximum videos of followed creators that are compared, besides live ones; of the last ones first:
to look their vectors up takes some 3 ms."""
RECENCY_HALF_LIFE = 3
"""Number of watches after which what a watch counts beside the 1 of each is halved; rankers learnt
the score of EASE with it, so another value needs a field in the manifest."""


def two_tower(query: Retrieval, limit: int) -> Int64Array:
    """Return the videos nearest to the viewer tower's embedding."""
    release, applied = query.release, query.applied
    if release.index.exact:
        # The products of all videos, which scores need anyway, take a tenth of the index's search.
        free = query.free_rows
        return best(free, query.once(_every_product)[free], release.keys, limit)
    if applied is None:
        allowed = query.free if len(query.blocked) else None
        return release.index.nearest(query.vector, limit, allowed)
    return _nearest_allowed(query, applied, limit)


def _nearest_allowed(query: Retrieval, applied: AppliedFilter, limit: int) -> Int64Array:
    """Return the nearest videos of those that a filter holds for, by an index with cells."""
    release, also = query.release, applied.allowed_rows

    def compared(listed: Int32Array) -> Int64Array:
        rows = np.concatenate([listed, also])
        return query.best(rows, looked_up(release.vectors, rows) @ query.vector, limit)

    most = max(MAX_LOOKED_UP, _LOOKED_UP_PER_RESULT * limit)
    if applied.listed is not None and applied.passing <= most:
        return compared(applied.listed)
    cells = release.index.cells_worth_probing(query.vector, limit, applied.cell_counts)
    if applied.listed is not None and applied.cell_counts[cells].sum() <= most:
        found = compared(applied.rows_in(cells))
        if len(found) == limit:
            return found
    return release.index.nearest_in(cells, query.vector, limit, query.free)


def two_tower_score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the exact inner products, even if the index compresses vectors."""
    if query.release.index.exact:
        return query.once(_every_product)[rows]
    return looked_up(query.release.every_vector, rows) @ query.vector


def _every_product(query: Retrieval) -> Float32Array:
    """Return the inner product of every video by its row."""
    release, live = query.release, query.release.live
    products: Float32Array = release.vectors @ query.vector
    if live is None or not live.count:
        return products
    every = np.zeros(release.row_count, np.float32)
    every[: len(products)] = products
    every[live.first :] = _live_products(live, query.vector)
    return every


def _live_products(live: LiveVideos, vector: Float32Array) -> Float32Array:
    """Return the inner product of each live video by its place, float32[m].

    It doesn't depend on which others there are, unlike that of a matrix by BLAS, which rounds
    otherwise at another place: so replays of slates, which know few of them, have the same.
    """
    products: Float32Array = np.einsum("nd,d->n", live.vectors[: live.count], vector)
    return products


def co_watch(query: Retrieval, limit: int) -> Int64Array:
    """Return what viewers watched soon after the recent history, strongest first, ties by key."""
    return query.best(*query.once(_co_watched), limit)


def co_watch_score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return how strongly the history leads to each video; 0 if it doesn't."""
    return query.scores_of(rows, *query.once(_co_watched))


def _co_watched(query: Retrieval) -> tuple[Int64Array, Float32Array]:
    """Return the rows that the history leads to, ascending, and their scores."""
    release = query.release
    return co_watched(query.history_rows, release.co_watch_rows, release.co_watch_weights)


def ease(query: Retrieval, limit: int) -> Int64Array:
    """Return the videos with a positive EASE score, best first, ties by key.

    There are none without a watch.
    """
    rows, scores = query.once(_expected)
    expected = (scores > 0).nonzero()[0]
    return query.best(rows.take(expected), scores.take(expected), limit)


def ease_score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the EASE score of each video, negative if the watches speak against it."""
    return query.scores_of(rows, *query.once(_expected))


def _expected(query: Retrieval) -> tuple[Int64Array, Float32Array]:
    """Return the rows that the watches speak for or against, ascending, and their EASE scores.

    A watch counts 1 (Steck 2019, equation 1), and one of the history `ease_recency` more, halved
    every RECENCY_HALF_LIFE watches after it.
    """
    release, watched = query.release, query.watched_rows
    rows = release.ease_rows.take(watched, axis=0)
    weights = release.ease_weights.take(watched, axis=0)
    counted, history = np.ones(len(watched), np.float32), query.history_rows
    back, recency = np.arange(len(history))[::-1], release.manifest.feature_schema.ease_recency
    # The watched rows ascend and include the history's; of repeats the last counts.
    counted[np.searchsorted(watched, history)] += recency * 0.5 ** (back / RECENCY_HALF_LIFE)
    return summed(rows, weights * counted[:, None], len(release.keys))


def popular(query: Retrieval, limit: int) -> Int64Array:
    """Return the head of the popular list, of the recently most watched videos."""
    release = query.release
    # Most filters and histories leave enough of the first; a few leave little of the list.
    for most in (2 * limit + len(query.blocked), len(release.popular_rows)):
        head = release.popular_rows[:most]
        found = head[query.is_free(head)][:limit]
        if len(found) == limit:
            return found
    if query.applied is None:
        return found
    rows = query.candidate_rows
    scores = release.popularity.take(rows)
    rows = best(rows, scores, release.keys, limit + len(query.blocked))
    return rows[query.is_free(rows)][:limit]


def fresh(query: Retrieval, limit: int) -> Int64Array:
    """Return new and hardly watched videos, slow to be found by others, by two-tower score.

    Their vectors come from content alone.
    """
    release = query.release
    if release.index.exact:
        # Every video's score is computed anyway.
        scores = two_tower_score(query, release.fresh_rows)
    else:
        scores = release.fresh_vectors @ query.vector
    return query.best(release.fresh_rows, scores, limit)


def trending(query: Retrieval, limit: int) -> Int64Array:
    """Return what is played more than other videos right now, in the viewer's locale first.

    A viewer without a history gets more of the release's, whose other sources know little.
    """
    live = query.release.live
    if live is None:
        return np.empty(0, np.int64)
    rows = live.trending(query.query.locale)
    rows = rows[query.is_free(rows)]
    new, most = rows >= live.first, limit
    if not len(query.viewer.history_keys):
        most = max(limit, int(COLD_SHARE * query.query.count))
    return np.concatenate([rows[~new][:most], rows[new][:limit]])


def new(query: Retrieval, limit: int) -> Int64Array:
    """Return the nearest videos of those that came since the release was trained.

    There are none without the viewer's vector, whose failure two_tower reports.
    """
    release, live = query.release, query.release.live
    places = np.empty(0, np.int64) if live is None else query.free_live.nonzero()[0]
    if live is None or not len(places):
        return places
    try:
        vector = query.vector
    except Exception:  # noqa: BLE001  # whatever it is, two_tower meets it too
        return places[:0]
    if release.index.exact:
        scores = query.once(_every_product)[live.first :]
    else:
        scores = _live_products(live, vector)
    rows: Int64Array = best(places, scores.take(places), live.keys, limit) + live.first
    return rows


def followed(query: Retrieval, limit: int) -> Int64Array:
    """Return the nearest videos of the creators that the viewer follows, live ones too.

    There are none without the viewer's vector, whose failure two_tower reports.
    """
    release, live, creators = query.release, query.release.live, query.viewer.followed_keys
    if live is None or not len(creators):
        return np.empty(0, np.int64)
    rows = release.by_creator.rows_of(creators[::-1], MAX_FOLLOWED)
    rows = rows[query.is_free(rows)]
    if live.count:
        places = query.free_live.nonzero()[0]
        places = places[np.isin(live.creators[places], creators)]
        rows = np.concatenate([rows, places + live.first])
    try:
        scores = two_tower_score(query, rows)
    except Exception:  # noqa: BLE001  # whatever it is, two_tower meets it too
        return rows[:0]
    return rows.take(best(np.arange(len(rows)), scores, release.keys_of(rows), limit))


def pinned(query: Retrieval, limit: int) -> Int64Array:
    """Return what the site's rules pin."""
    rows = query.release.find(query.query.pinned_keys)
    rows = rows[rows >= 0]
    return rows[query.is_free(rows)][:limit]


PROPOSE: Mapping[str, Callable[[Retrieval, int], Int64Array]] = {
    each.__name__: each
    for each in (two_tower, co_watch, ease, popular, fresh, trending, new, followed, pinned)
}
"""Each source by its name."""
SCORE: Mapping[str, Callable[[Retrieval, Int64Array], Float32Array]] = {
    "two_tower": two_tower_score,
    "co_watch": co_watch_score,
    "ease": ease_score,
}
"""Each score by its name."""
