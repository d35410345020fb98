"""What a cold-start study trains on, and whom it asks about: viewers and videos kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from server.features.activity import HISTORY_LIMIT
from server.features.viewer import ViewerFeatures
from training.retrieval.data import RetrievalData

VIEWER_SHARE = 0.10
"""Share of viewers that the study's towers never see."""
VIDEO_SHARE = 0.05
"""Share of videos whose every watch is taken away."""
CASES_LIMIT = 10_000
"""More watches of unseen videos than this are sampled."""
GROUPS = {"0": (0, 0), "1": (1, 1), "2-5": (2, 5)}
"""Fewest and most watches that are known of a cold viewer."""

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cases:
    """Watches to predict, c of them."""

    viewers: tuple[ViewerFeatures, ...]
    """As known just before."""
    known: tuple[Int64Array, ...]
    """Rows of the watches that are known, oldest first."""
    watched: tuple[Int64Array, ...]
    """Rows of all watches before, known or not: these can't be the answer."""
    targets: Int64Array
    """Row watched, int64[c]."""

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, size: int) -> Iterator[Cases]:
        """The cases in pieces of at most `size`, alike lengths together."""
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
    """The towers' data, and the cases that are unseen by it."""

    data: RetrievalData
    """Without the kept viewers, and without any watch of the kept videos."""
    unseen: BoolArray
    """Which videos are kept, bool[n]."""
    new_viewers: dict[str, Cases]
    """By GROUPS: the kept viewers' first watches, each predicted from those before it."""
    late_viewers: dict[str, Cases]
    """By GROUPS that know any watch: the kept viewers' last watch, predicted from so many just
    before it, as of viewers who watched more than that and of whom little is known. Where a site
    chooses what new viewers are shown first, their first watches tell its choice, not taste."""
    new_videos: Cases
    """Watches of kept videos by the other viewers."""


def kept_apart(ids: Sequence[str] | pd.Series, share: float, seed: int) -> BoolArray:
    """Which ids a study keeps: by their hash, the same in every run, bool[m]."""
    digests = [xxhash.xxh3_64_intdigest(name.encode(), seed=seed) for name in ids]
    return np.array([digest < share * 2**64 for digest in digests], bool)


def cold_sets(watches: pd.DataFrame, videos: pd.DataFrame, viewers: pd.DataFrame) -> ColdSets:
    """Keeps viewers and videos apart; the test part is dropped before anything else.

    Args:
        watches: as in `training.features.watches.WATCHES`.
        videos: `videos.parquet`.
        viewers: `viewers.parquet`.
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
        name: kept_viewers.cases(np.flatnonzero((position >= least) & (position <= most)))
        for name, (least, most) in GROUPS.items()
    }
    last = kept_viewers.last[position[kept_viewers.last] > GROUPS["2-5"][1]]
    late_viewers = {
        name: kept_viewers.cases(
            np.repeat(last, most - least + 1), np.tile(range(least, most + 1), len(last))
        )
        for name, (least, most) in GROUPS.items()
        if least
    }
    others = _Histories(past[~of_viewer], data, profiles)
    wanted = np.flatnonzero(unseen[others.rows])
    if len(wanted) > CASES_LIMIT:
        wanted = np.sort(np.random.default_rng(0).choice(wanted, CASES_LIMIT, replace=False))
    return ColdSets(data, unseen, new_viewers, late_viewers, others.cases(wanted))


class _Histories:
    """Watches by viewer, each with all that came before it."""

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
        """How many watches of its viewer came before each, int64[w]."""
        self.last = np.flatnonzero(~watches["viewer_id"].duplicated(keep="last").to_numpy())
        """Where each viewer's last watch is."""

    def cases(self, places: npt.NDArray[np.intp], known: Int64Array | None = None) -> Cases:
        """The watches at `places` as cases, of which all watches before are known, or `known`."""
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
