"""The co-watch table: for each video, the videos that its viewers watched soon after."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.training.retrieval.data import RetrievalData

STEPS = 10
"""Number of next watches that count as following a video."""
STEP_DECAY = 0.9
"""Weight of each step relative to the one before."""
POPULARITY_DAMPING = 0.1
"""A follower's weight is divided by its watch count to this power; 0 favours popular videos."""


NEIGHBOURS = 64
"""Followers kept for each video."""
CELLS = 12_000_000
"""Maximum followers of all videos together: a catalogue of more than CELLS / NEIGHBOURS videos,
most of which are rarely watched, keeps fewer for each."""
PAIRS_AT_A_TIME = 8_000_000
"""Pairs counted at once; bounds memory, at some 100 bytes each."""


def co_watch_neighbours(videos: int) -> int:
    """Return how many followers to keep for each video of a catalogue of `videos`."""
    return max(8, min(NEIGHBOURS, CELLS // max(videos, 1)))


def co_watch_table(
    data: RetrievalData, k: int, videos: range | None = None
) -> tuple[Int32Array, Float32Array]:
    """Return the k strongest followers of each video in the train part, strongest first.

    A weight is the follower's probability among the next STEPS watches, nearer steps counting more,
    divided by its watch count to the power POPULARITY_DAMPING.

    Returns:
        For the rows in `videos`, or all: rows int32[n, k], padded with -1, and weights float32[n,
        k], padded with 0.
    """
    videos = range(data.video_count) if videos is None else videos
    rows = np.empty((len(videos), k), np.int32)
    table = np.empty((len(videos), k), np.float32)
    watches = np.maximum(data.watch_counts, 1).astype(np.float64)
    for part in parts(data.watch_counts * STEPS, videos):
        follows = _follow_counts(data, part)
        video = part.start + np.repeat(np.arange(len(part)), np.diff(follows.indptr))
        follows.data /= watches[video]
        follows.data /= watches[follows.indices] ** POPULARITY_DAMPING
        own = slice(part.start - videos.start, part.stop - videos.start)
        rows[own], table[own] = strongest(follows, follows.data, k)
    return rows, table


def parts(pairs: Int64Array, videos: range) -> Iterator[range]:
    """Yield the videos in parts of about PAIRS_AT_A_TIME pairs, given each video's, int64[n]."""
    total = np.cumsum(pairs[videos.start : videos.stop])
    start = videos.start
    while start < videos.stop:
        before = total[start - videos.start - 1] if start > videos.start else 0
        fit = int(np.searchsorted(total, before + PAIRS_AT_A_TIME, side="right"))
        stop = min(max(videos.start + fit, start + 1), videos.stop)
        yield range(start, stop)
        start = stop


def strongest(
    table: sparse.csr_array, strengths: npt.NDArray[np.floating], k: int
) -> tuple[Int32Array, Float32Array]:
    """Return the k entries of each row of a sparse table with the largest strengths, largest first.

    Args:
        table: m rows.
        strengths: strength of each entry, in the order of the table's.
        k: number of entries to keep.

    Returns:
        Columns int32[m, k], padded with -1, and entries float32[m, k], padded with 0.
    """
    columns = np.full((table.shape[0], k), -1, np.int32)
    entries = np.zeros((table.shape[0], k), np.float32)
    row = np.repeat(np.arange(len(columns)), np.diff(table.indptr))
    # By row, then strength, then column: equal strengths always come in the same order.
    order = np.lexsort((table.indices, -strengths, row))
    place = np.arange(len(order)) - table.indptr[row]
    kept = place < k
    columns[row[kept], place[kept]] = table.indices[order][kept]
    entries[row[kept], place[kept]] = table.data[order][kept]
    return columns, entries


def _follow_counts(data: RetrievalData, videos: range) -> sparse.csr_array:
    """Count how often each video (column) followed each of `videos` (row), weighted by step."""
    places = np.flatnonzero((data.train.rows >= videos.start) & (data.train.rows < videos.stop))
    ends = data.train.offsets[np.searchsorted(data.train.offsets, places, side="right")]
    before, after, weights = [], [], []
    for step in range(1, STEPS + 1):
        same = places[places + step < ends]
        before.append(data.train.rows[same] - videos.start)
        after.append(data.train.rows[same + step])
        weights.append(np.full(len(same), STEP_DECAY ** (step - 1)))
    pairs = (np.concatenate(before), np.concatenate(after))
    counts: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (np.concatenate(weights), pairs), shape=(len(videos), data.video_count)
    )
    return counts
