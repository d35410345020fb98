"""Data of a cold-start study: a training set, and cases of unseen viewers and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xxhash

from server.arrays import BoolArray, Int64Array
from server.features.activity import HISTORY_LIMIT
from server.features.viewer import ViewerFeatures
from training.retrieval.data import RetrievalData

VIEWER_SHARE = 0.10
"""Share of viewers that the study's towers never see."""
VIDEO_SHARE = 0.05
"""Share of videos whose every watch is removed."""
MAX_CASES = 10_000
"""Maximum cases of unseen videos; more are sampled."""
GROUPS = {"0": (0, 0), "1": (1, 1), "2-5": (2, 5)}
"""Minimum and maximum known watches of a cold viewer."""


@dataclass(frozen=True)
class Cases:
    """c watches to predict."""

    viewers: tuple[ViewerFeatures, ...]
    """As known just before."""
    known: tuple[Int64Array, ...]
    """Rows of the known watches, oldest first."""
    watched: tuple[Int64Array, ...]
    """Rows of all earlier watches, known or not, which are excluded from the ranking."""
    targets: Int64Array
    """Row watched, int64[c]."""

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, size: int) -> Iterator[Cases]:
        """Yield the cases in batches of at most `size`, similar lengths together."""
        order = np.argsort([len(rows) for rows in self.known], kind="stable")
        for start in range(0, len(order), size):
            places = order[start : start + size]
            yield Cases(
                tuple(self.viewers[place] for place in places),
                tuple(self.known[place] for place in places),
                tuple(self.watched[place] for place in places),
                self.targets[places],
            )


@dataclass(frozen=True)
class ColdSets:
    """The towers' data, and cases that it doesn't have."""

    data: RetrievalData
    """Without the unseen viewers, and without any watch of the unseen videos."""
    unseen: BoolArray
    """Which videos are unseen, bool[n]."""
    new_viewers: dict[str, Cases]
    """By GROUPS: unseen viewers' first watches, each predicted from those before it."""
    late_viewers: dict[str, Cases]
    """By GROUPS with known watches: unseen viewers' last watch, predicted from as many just before
    it. First watches may follow what the site shows new viewers rather than taste."""
    new_videos: Cases
    """Watches of unseen videos by the other viewers."""


def kept_apart(ids: Sequence[str] | pd.Series, share: float, seed: int) -> BoolArray:
    """Return which ids are unseen, by a hash that is the same in every run, bool[m]."""
    digests = [xxhash.xxh3_64_intdigest(name.encode(), seed=seed) for name in ids]
    return np.array([digest < share * 2**64 for digest in digests], bool)


def cold_sets(watches: pd.DataFrame, videos: pd.DataFrame, viewers: pd.DataFrame) -> ColdSets:
    """Return a study's data from a split, whose test part is dropped first.

    Args:
        watches: as in `training.features.watches.WATCHES`.
        videos: the catalogue.
        viewers: profiles of the viewers.
    """
    past = watches[watches["part"] != "test"].reset_index(drop=True)
    unseen = kept_apart(videos["video_id"], VIDEO_SHARE, seed=16)
    kept = set(videos["video_id"][unseen])
    of_video = past["video_id"].isin(kept).to_numpy()
    names = past["viewer_id"].unique()
    cold = set(names[kept_apart(names.tolist(), VIEWER_SHARE, seed=17)])
    of_viewer = past["viewer_id"].isin(cold).to_numpy()
    data = RetrievalData.build(past[~of_video & ~of_viewer], videos, viewers)
    profiles = dict(zip(viewers["viewer_id"], viewers["attributes"], strict=True))
    kept_viewers = _Histories(past[of_viewer & ~of_video], data, profiles)
    position = kept_viewers.position
    new_viewers = {
        name: kept_viewers.cases(np.flatnonzero((position >= low) & (position <= high)))
        for name, (low, high) in GROUPS.items()
    }
    last = kept_viewers.last[position[kept_viewers.last] > GROUPS["2-5"][1]]
    late_viewers = {
        name: kept_viewers.cases(
            np.repeat(last, high - low + 1), np.tile(range(low, high + 1), len(last))
        )
        for name, (low, high) in GROUPS.items()
        if low
    }
    others = _Histories(past[~of_viewer], data, profiles)
    wanted = np.flatnonzero(unseen[others.rows])
    if len(wanted) > MAX_CASES:
        wanted = np.sort(np.random.default_rng(0).choice(wanted, MAX_CASES, replace=False))
    return ColdSets(data, unseen, new_viewers, late_viewers, others.cases(wanted))


class _Histories:
    """Watches by viewer, each with all before it."""

    def __init__(
        self, watches: pd.DataFrame, data: RetrievalData, profiles: dict[str, Sequence[str]]
    ) -> None:
        self._data, self._profiles = data, profiles
        watches = watches.sort_values(["viewer_id", "time"], kind="stable")
        self._names = watches["viewer_id"].to_numpy()
        index = pd.Index(data.video_ids)
        self.rows: Int64Array = index.get_indexer(pd.Index(watches["video_id"])).astype(np.int64)
        self._times = watches["time"].to_numpy("datetime64[s]").astype(np.int64)
        self.position = watches.groupby("viewer_id", sort=False).cumcount().to_numpy()
        """Number of its viewer's earlier watches, int64[w]."""
        self.last = np.flatnonzero(~watches["viewer_id"].duplicated(keep="last").to_numpy())
        """Place of each viewer's last watch."""

    def cases(self, places: Int64Array, known: Int64Array | None = None) -> Cases:
        """Return watches as cases with `known` watches each; None: all earlier ones."""
        lengths = self.position[places] if known is None else known
        viewers, histories, watched = [], [], []
        for place, length in zip(places.tolist(), lengths.tolist(), strict=True):
            before = slice(place - length, place)
            rows = self.rows[before]
            keys = self._data.keys[rows]
            histories.append(rows)
            watched.append(self.rows[place - int(self.position[place]) : place])
            viewers.append(
                ViewerFeatures(
                    history_keys=keys[-HISTORY_LIMIT:],
                    history_times=self._times[before][-HISTORY_LIMIT:],
                    watched_keys=keys,
                    attributes=tuple(self._profiles.get(self._names[place], ())),
                    watch_count=len(rows),
                    asked_at=int(self._times[place]),
                )
            )
        return Cases(tuple(viewers), tuple(histories), tuple(watched), self.rows[places])
