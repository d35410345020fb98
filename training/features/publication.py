"""Releases as of past requests: what wasn't published by then was no candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from server.arrays import Float64Array
from server.candidate.embargo import Embargo
from server.candidate.release import CandidateRelease
from server.features.viewer import ViewerFeatures
from server.filters.declared import PUBLISHED
from server.filters.table import AttributeTable


def published_times(videos: pd.DataFrame) -> Float64Array:
    """Return when each video of a catalogue was published, as `published_of` does."""
    known = videos["published"].fillna(pd.Timestamp(0, tz="UTC")).to_numpy("datetime64[s]")
    return known.astype(np.int64).astype(np.float64)


class AsOfRequests:
    """A release whose videos are published by the clock of requests, one after another."""

    def __init__(self, release: CandidateRelease, viewers: Sequence[ViewerFeatures]) -> None:
        """Take the requests of `viewers`, each at its `asked_at`, and those without one last."""
        self._viewers = viewers
        self._moments = [viewer.asked_at or math.inf for viewer in viewers]
        self._now = -math.inf
        self.order: list[int] = np.argsort(self._moments, kind="stable").tolist()
        """Places of the viewers, in the order in which `viewer` must be called."""
        attributes = AttributeTable.load(release.folder, len(release.keys))
        self.release = replace(release, embargo=Embargo(attributes, None, lambda: self._now))
        """It is as of the last call of `viewer`."""

    def viewer(self, place: int) -> ViewerFeatures:
        """Return the viewer at a place, whose request comes next."""
        self._now = self._moments[place]
        return self._viewers[place]


def published_of(release: CandidateRelease) -> Float64Array:
    """Return when each video was published, Unix seconds, 0 if unknown, float64[n]."""
    attributes = AttributeTable.load(release.folder, len(release.keys))
    if PUBLISHED not in attributes.declared.numbers:
        return np.zeros(len(release.keys))
    return np.nan_to_num(attributes.number(PUBLISHED))
