"""Which videos count as fresh."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.retrieval.data import RetrievalData

FRESH_DAYS = 30
"""A video is new for so long after its publication."""
FRESH_WATCHES = 10
"""A video with fewer watches is hardly watched."""
FRESH_LIMIT = 2000
"""So few that scoring all of them costs little."""


def fresh_rows(data: RetrievalData, videos: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Rows of the fresh videos, at most FRESH_LIMIT, the freshest first.

    First the new ones: published within FRESH_DAYS before the last watch, or after it, the
    newest first. Then the hardly watched: fewer than FRESH_WATCHES watches in the train part,
    the fewest first, and of equally many the newest first, those without a date last. Ties
    by key.

    Args:
        data: the train part.
        videos: the catalogue, `videos.parquet`, in the order of the rows.
    """
    watches = data.watch_counts()
    published = videos["published"].to_numpy("datetime64[s]")
    dated = ~np.isnat(published)
    # Seconds; a video without a date is as old as can be.
    born = np.where(dated, published.astype(np.int64), np.iinfo(np.int64).min)
    newest_first = np.lexsort((data.keys, -born.astype(np.float64)))
    last = int(data.times.max(initial=0))
    new = dated & (born >= last - FRESH_DAYS * 86_400)
    hardly = ~new & (watches < FRESH_WATCHES)
    first = newest_first[new[newest_first]]
    then = newest_first[hardly[newest_first]]
    then = then[np.argsort(watches[then], kind="stable")]
    rows: npt.NDArray[np.int64] = np.concatenate([first, then])[:FRESH_LIMIT]
    return rows
