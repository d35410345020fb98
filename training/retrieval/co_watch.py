"""The co-watch table: for each video, the videos that its viewers watched soon after."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from training.retrieval.data import RetrievalData

STEPS = 10
"""How many next watches count as following a video."""
STEP_DECAY = 0.9
"""Each further step weighs this much of the one before."""
POPULARITY_DAMPING = 0.1
"""Power of a follower's own watches that divides its weight: 0 favours the popular."""


def co_watch_table(
    data: RetrievalData, k: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The k videos that most follow each video in the train part, the closest first.

    The weight is the chance of the follower among the next STEPS watches, nearer steps
    counting more, over its popularity to the power POPULARITY_DAMPING.

    Returns:
        Rows int32[n, k], -1 where fewer follow, and weights float32[n, k], 0 there.
    """
    n = data.video_count
    follows = _follow_counts(data)
    watches = np.maximum(data.watch_counts(), 1).astype(np.float64)
    video = np.repeat(np.arange(n), np.diff(follows.indptr))
    weights = follows.data / watches[video] / watches[follows.indices] ** POPULARITY_DAMPING

    rows = np.full((n, k), -1, np.int32)
    table = np.zeros((n, k), np.float32)
    # By video, then weight, then row: equal weights always come in the same order.
    order = np.lexsort((follows.indices, -weights, video))
    place = np.arange(len(order)) - follows.indptr[video]
    kept = place < k
    rows[video[kept], place[kept]] = follows.indices[order][kept]
    table[video[kept], place[kept]] = weights[order][kept]
    return rows, table


def _follow_counts(data: RetrievalData) -> sparse.csr_array:
    """How often each video (column) followed each (row), nearer steps counting more."""
    viewer = np.repeat(np.arange(data.viewer_count), np.diff(data.offsets))
    before, after, weights = [], [], []
    for step in range(1, STEPS + 1):
        same = viewer[:-step] == viewer[step:]
        before.append(data.rows[:-step][same])
        after.append(data.rows[step:][same])
        weights.append(np.full(np.count_nonzero(same), STEP_DECAY ** (step - 1)))
    pairs = (np.concatenate(before), np.concatenate(after))
    counts: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (np.concatenate(weights), pairs), shape=(data.video_count, data.video_count)
    )
    return counts
