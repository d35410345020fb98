"""Which videos were published at the time of past requests; the others were no candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from vireo.server.arrays import Float64Array, Int64Array
from vireo.server.recommend.filters.declared import PUBLISHED
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.recommend.retrieval.allowed import Embargo
from vireo.server.recommend.retrieval.release import CandidateRelease


def published_times(videos: pd.DataFrame) -> Float64Array:
    """Return `published` of a catalogue, Unix seconds, 0 if unknown, float64[n]."""
    known = videos["published"].fillna(pd.Timestamp(0, tz="UTC")).to_numpy("datetime64[us]")
    return known.astype(np.int64) / 1e6


def published_of(release: CandidateRelease) -> Float64Array:
    """Return `published` of a release's videos, as `published_times` does."""
    attributes = AttributeTable.load(release.folder, len(release.keys))
    return np.nan_to_num(attributes.number(PUBLISHED))


class PastEmbargo(Embargo):
    """Knows a release's unpublished videos at the time of one request after another."""

    def __init__(self, published: Float64Array) -> None:
        """Take when each video was published, as from `published_of`."""
        self._order = np.argsort(published, kind="stable")
        self._times = published[self._order]
        self._rows = self._order[:0]

    def ask(self, asked_at: int, target: int) -> None:
        """Go to the time of a request, Unix seconds; 0 is now, when everything is published.

        `target`, the row that was watched then, is published whatever the catalogue says; -1 if
        the release lacks it.
        """
        first = np.searchsorted(self._times, asked_at, "right") if asked_at else len(self._order)
        later = self._order[first:]
        self._rows = later[later != target]

    def unpublished(self) -> Int64Array:
        """Return the rows of the videos that weren't published then."""
        return self._rows


def of_the_past(release: CandidateRelease) -> tuple[CandidateRelease, PastEmbargo]:
    """Return the release with an embargo that goes to the time of each request."""
    embargo = PastEmbargo(published_of(release))
    return replace(release, embargo=embargo), embargo
