"""Selection of fresh videos."""

from __future__ import annotations

import numpy as np
import pandas as pd

from server.arrays import Int64Array
from training.retrieval.data import RetrievalData

FRESH_DAYS = 30
"""Days after publication during which a video is new."""
FRESH_WATCHES = 10
"""A video with fewer watches is rarely watched."""
FRESH_LIMIT = 2000
"""Maximum number of fresh videos; scoring all of them costs little."""


def fresh_rows(data: RetrievalData, videos: pd.DataFrame) -> Int64Array:
    """Return the rows of the fresh videos, freshest first, at most FRESH_LIMIT.

    New videos come first: published at most FRESH_DAYS before the last watch, newest first. Then
    rarely watched ones: under FRESH_WATCHES watches in the train part, sorted by watches, then
    newest first, undated last. Ties are broken by key. `videos` is the catalogue in row order.
    """
    watches = data.watch_counts()
    published = videos["published"].to_numpy("datetime64[s]")
    dated = ~np.isnat(published)
    # Seconds; an undated video gets the earliest possible time.
    born = np.where(dated, published.astype(np.int64), np.iinfo(np.int64).min)
    newest_first = np.lexsort((data.keys, -born.astype(np.float64)))
    last = int(data.times.max(initial=0))
    new = dated & (born >= last - FRESH_DAYS * 86_400)
    hardly = ~new & (watches < FRESH_WATCHES)
    first = newest_first[new[newest_first]]
    then = newest_first[hardly[newest_first]]
    then = then[np.argsort(watches[then], kind="stable")]
    rows: Int64Array = np.concatenate([first, then])[:FRESH_LIMIT]
    return rows
