"""How strongly a viewer's history leads to videos: sums over item-to-item tables, and content."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.server.features.looked_up import Column, looked_up

DENSE_LIMIT = 50_000
"""Up to this many videos, a dense sum takes less time than sorting the rows."""
DENSE_SHARE = 1 / 16
"""Beyond, it does if the weights number at least this share of the videos."""


def summed(
    rows: Int32Array, weights: npt.NDArray[np.floating], videos: int
) -> tuple[Int64Array, Float32Array]:
    """Return the videos that have weights, each once, and the sums of their weights.

    Args:
        rows: row of the video of each weight, any shape; -1 for padding.
        weights: of the same shape; 0 for padding.
        videos: size of the catalogue.

    Returns:
        Rows, ascending, int64[m], and sums, float32[m].
    """
    rows, parts = rows.ravel(), weights.ravel().astype(np.float64, copy=False)
    if videos <= DENSE_LIMIT or len(rows) >= DENSE_SHARE * videos:
        # One place more: padding counts as the last.
        every = np.zeros(videos + 1)
        # A quarter less time than np.bincount, which looks for the largest row first.
        np.add.at(every, rows.astype(np.int64), parts)
        found = every[:-1].nonzero()[0]
        return found, every[found].astype(np.float32)
    real = (rows >= 0) & (parts != 0)
    found, place = np.unique(rows[real], return_inverse=True)
    sums = np.bincount(place, parts[real], minlength=len(found))
    return found.astype(np.int64), sums.astype(np.float32)


CO_WATCH_HISTORY = 20
"""Number of last watched videos that count."""
CO_WATCH_HALF_LIFE = 3.0
"""Steps back in the history after which a watch counts half."""
_CO_WATCH_DECAY = 0.5 ** (np.arange(CO_WATCH_HISTORY)[::-1, None] / CO_WATCH_HALF_LIFE)
"""Weight of each of the last watches, oldest first, float64[CO_WATCH_HISTORY, 1]."""


def co_watched(
    history_rows: Int64Array, neighbour_rows: Int32Array, weights: Float32Array
) -> tuple[Int64Array, Float32Array]:
    """Return the videos that the history leads to, each once.

    Args:
        history_rows: rows of the known videos watched, oldest first, int64[h].
        neighbour_rows: videos that follow each video most, int32[n, k]; -1 pads a row.
        weights: how strongly, float32[n, k] or float16[n, k]; 0 for padding.

    Returns:
        Their rows, ascending, int64[m], and scores above 0, float32[m]: the sum over the
        last CO_WATCH_HISTORY watches of 0.5 ** (steps back / CO_WATCH_HALF_LIFE) x weight.
    """
    recent = history_rows[-CO_WATCH_HISTORY:]
    decay = _CO_WATCH_DECAY[CO_WATCH_HISTORY - len(recent) :]
    rows, parts = neighbour_rows.take(recent, axis=0), weights.take(recent, axis=0) * decay
    return summed(rows, parts, len(neighbour_rows))


CONTENT_HISTORY = 50
"""Number of last watched videos that count, at most RANKER_HISTORY: the ranker's training set
keeps no more."""
CONTENT_HALF_LIFE = 5.0
"""Steps back in the history after which a watch counts half."""
_CONTENT_DECAY = (0.5 ** (np.arange(CONTENT_HISTORY)[::-1] / CONTENT_HALF_LIFE)).astype(np.float32)
"""Weight of each of the last watches, oldest first, float32[CONTENT_HISTORY]."""


def content_match(
    history_rows: Int64Array, candidate_rows: Int64Array, content: Column
) -> Float32Array:
    """Return the match of some videos, from -1 to 1; 0 if either side's content is unknown.

    Args:
        history_rows: rows of the known videos watched, oldest first, int64[h].
        candidate_rows: rows of the videos to match, int64[m].
        content: content vectors of length 1, or 0 if nothing is known, float32[n, c] or
            float16[n, c].

    Returns:
        float32[m]: the cosine of the video's content vector and the mean of the last
        CONTENT_HISTORY watches', each weighted by 0.5 ** (steps back / CONTENT_HALF_LIFE).
    """
    recent = history_rows[-CONTENT_HISTORY:]
    taste = _CONTENT_DECAY[CONTENT_HISTORY - len(recent) :] @ looked_up(content, recent)
    length = np.linalg.norm(taste)
    if length > 0:
        taste = taste / length
    matches: Float32Array = looked_up(content, candidate_rows) @ taste
    return matches
