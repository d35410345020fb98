"""The fallback without pods: the release's popular list, which the gateway holds itself."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from server.features.keys import video_key
from server.releases.layout import POPULAR_IDS
from server.releases.tables import read_texts


@dataclass(frozen=True)
class PopularList:
    """The most popular videos."""

    keys: dict[str, int]
    """Key of each id, best first."""

    @staticmethod
    def load(folder: Path) -> PopularList:
        """Read the list from a release's folder; raise ReleaseError if it isn't a list of ids."""
        return PopularList({name: video_key(name) for name in read_texts(folder, POPULAR_IDS)})

    def best(self, count: int, blocked: Set[int], removed: Callable[[int], bool]) -> list[str]:
        """Return the first `count` ids whose keys are neither in `blocked` nor removed."""
        kept = (name for name, key in self.keys.items() if key not in blocked and not removed(key))
        return [*islice(kept, count)]
