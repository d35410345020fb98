"""The held-out watches of a part, and each viewer as known just before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from vireo.server.arrays import Int64Array
from vireo.server.features.keys import video_keys
from vireo.server.features.video_rows import VideoRows
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.features.history import viewers_before

HeldOutPart = Literal["validation", "test"]


@dataclass(frozen=True)
class HeldOutWatches:
    """Each viewer's last watch of a part."""

    viewers: tuple[ViewerFeatures, ...]
    targets: Int64Array
    """Row of each watched video, int64[v]."""


def last_held_out(
    watches: pd.DataFrame,
    repo: Path,
    rows: VideoRows,
    part: HeldOutPart,
    limit: int | None = None,
) -> HeldOutWatches:
    """Return each viewer's last watch of a part, with the features of a request at its time.

    Args:
        watches: as in `vireo.training.features.watches.WATCHES`.
        repo: the feature folder.
        rows: the release's rows.
        part: "validation" to choose by, "test" to report.
        limit: maximum viewers; of more, the same sample is drawn each time.
    """
    held_out = watches[watches["part"] == part]
    last = held_out.drop_duplicates("viewer_id", keep="last").reset_index(drop=True)
    if limit is not None and len(last) > limit:
        places = np.random.default_rng(0).choice(len(last), limit, replace=False)
        last = last.iloc[places].reset_index(drop=True)
    keys = video_keys(last["video_id"].tolist())
    return HeldOutWatches(tuple(viewers_before(repo, last)), rows.find(keys))
