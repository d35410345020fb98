"""The fallback without pods: the release's popular list, which the gateway holds itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from server.features.keys import video_keys
from server.releases.layout import POPULAR_IDS
from server.releases.tables import read_texts


@dataclass(frozen=True)
class PopularList:
    """The most popular videos, best first."""

    ids: tuple[str, ...]
    keys: npt.NDArray[np.int64]
    """Keys of `ids`, int64[n]."""

    @staticmethod
    def load(folder: Path) -> PopularList:
        """Read the list from a release's folder; raise ReleaseError if it isn't a list of ids."""
        ids = read_texts(folder, POPULAR_IDS)
        return PopularList(tuple(ids), video_keys(ids))

    def best(self, count: int, blocked: npt.NDArray[np.int64]) -> list[str]:
        """Return the first `count` ids whose keys aren't in `blocked`, int64[b]."""
        free = np.flatnonzero(~np.isin(self.keys, blocked))
        return [self.ids[place] for place in free[:count]]
