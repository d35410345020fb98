"""The held-out watches of a part, and each viewer as known just before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.features.keys import video_keys
from server.features.video_rows import VideoRows
from server.features.viewer import ViewerFeatures
from training.features.history import viewers_before

HeldOutPart = Literal["validation", "test"]


@dataclass(frozen=True)
class HeldOutWatches:
    """One watch a viewer: the last one of a part."""

    ids: tuple[str, ...]
    """The viewers."""
    viewers: tuple[ViewerFeatures, ...]
    targets: npt.NDArray[np.int64]
    """Row of each watched video, int64[v]."""


def last_held_out(
    watches: pd.DataFrame, repo: Path, rows: VideoRows, part: HeldOutPart
) -> HeldOutWatches:
    """Each viewer's last watch of a part, with the features of a request at its moment.

    Args:
        watches: as in `training.features.watches.WATCHES`.
        repo: the folder of features.
        rows: of the release.
        part: "validation" to choose by, "test" to report.
    """
    held_out = watches[watches["part"] == part]
    last = held_out.drop_duplicates("viewer_id", keep="last").reset_index(drop=True)
    viewers = viewers_before(repo, last)
    keys = video_keys(last["video_id"].tolist())
    return HeldOutWatches(tuple(last["viewer_id"]), tuple(viewers), rows.find(keys))
