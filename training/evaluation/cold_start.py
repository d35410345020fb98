"""Quality of the towers for viewers and videos that they have never seen.

Towers are trained for the study, without a tenth of the viewers and a twentieth of the videos, each
fold without another twentieth; the viewer tower's order is measured, without ranker. No watch of
the test part is used, so the study may choose settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash
from rich.console import Console

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.features.activity import HISTORY_LIMIT
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.config import RetrievalConfig
from vireo.training.evaluation.baselines import Fitter, Past, PopularityConfig, history_matrix
from vireo.training.metrics import gains, means
from vireo.training.retrieval.content import weighted_bags
from vireo.training.retrieval.data import HeldOut, RetrievalData
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.train import train_retrieval
from vireo.training.retrieval.validation import Scorer, ranks_of, tower_scorer

VIEWER_SHARE = 0.10
"""Share of viewers that the study's towers never see."""
FOLDS = 20
"""Folds in which every video is unseen once."""
MAX_CASES = 10_000
"""Maximum cases of unseen videos in a fold; more are sampled."""
GROUPS = {"0": (0, 0), "1": (1, 1), "2-5": (2, 5)}
"""Minimum and maximum known watches of a cold viewer."""


Cases = list[HeldOut]
"""Watches to predict from those that the viewer is known by; all earlier ones, known or not, are
excluded from the ranking."""


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


def kept_apart(ids: Sequence[str] | pd.Series, share: float, seed: int, fold: int = 0) -> BoolArray:
    """Return which ids are unseen in a fold, by a hash that is the same in every run, bool[m]."""
    digests = [xxhash.xxh3_64_intdigest(name.encode(), seed=seed) for name in ids]
    return np.array([int(digest / 2**64 / share) == fold for digest in digests], bool)


def cold_sets(
    watches: pd.DataFrame, videos: pd.DataFrame, viewers: pd.DataFrame, fold: int = 0
) -> ColdSets:
    """Return a study's data from a split, whose test part is dropped first.

    Args:
        watches: as in `vireo.training.features.watches.WATCHES`.
        videos: the catalogue.
        viewers: profiles of the viewers.
        fold: which videos are unseen, of FOLDS parts; the viewers are the same in each.
    """
    past = watches[watches["part"] != "test"].reset_index(drop=True)
    unseen = kept_apart(videos["video_id"], 1 / FOLDS, seed=16, fold=fold)
    of_video = past["video_id"].isin(set(videos["video_id"][unseen])).to_numpy()
    names = past["viewer_id"].unique()
    cold = set(names[kept_apart(names.tolist(), VIEWER_SHARE, seed=17)])
    of_viewer = past["viewer_id"].isin(cold).to_numpy()
    data = RetrievalData.build(past[~of_video & ~of_viewer], videos, viewers)
    profiles = dict(zip(viewers["viewer_id"], viewers["attributes"], strict=True))
    kept = _Histories(past[of_viewer & ~of_video], data, profiles)
    new_viewers = {
        name: kept.cases(np.flatnonzero((kept.position >= low) & (kept.position <= high)))
        for name, (low, high) in GROUPS.items()
    }
    last = kept.last[kept.position[kept.last] > GROUPS["2-5"][1]]
    late_viewers = {
        name: kept.cases(np.repeat(last, high - low + 1), np.tile(range(low, high + 1), len(last)))
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
        cases = []
        for place, length in zip(places.tolist(), lengths.tolist(), strict=True):
            before = slice(place - length, place)
            keys = self._data.keys[self.rows[before]]
            viewer = ViewerFeatures(
                history_keys=keys[-HISTORY_LIMIT:],
                history_times=self._times[before][-HISTORY_LIMIT:],
                watched_keys=keys,
                attributes=tuple(self._profiles.get(self._names[place], ())),
                watch_count=len(keys),
                asked_at=int(self._times[place]),
            )
            watched = self.rows[place - int(self.position[place]) : place]
            cases.append(HeldOut(viewer, watched, int(self.rows[place])))
        return cases


def content_scores(data: RetrievalData, cases: Cases) -> Float32Array:
    """Return the similarity of each case's known watches to all videos, float32[c, n].

    It is the cosine between their mean token bag and each video's, weighted by tf-idf; 0 without
    watches.
    """
    bags = weighted_bags(data.content)
    known = [data.video_rows.find(case.viewer.watched_keys) for case in cases]
    # The norm of a viewer's mean doesn't change the order.
    tastes = history_matrix(known, data.video_count) @ bags
    return np.asarray((tastes @ bags.T).toarray(), np.float32)


def study_cold_start(
    watches: pd.DataFrame,
    videos: pd.DataFrame,
    viewers: pd.DataFrame,
    config: RetrievalConfig,
    checkpoints: Path,
    console: Console | None = None,
    folds: int = 1,
) -> dict[str, object]:
    """Train the study's towers and measure them.

    Args:
        watches: the split.
        videos: the catalogue.
        viewers: profiles of the viewers.
        config: settings of the towers.
        checkpoints: folder for their checkpoints.
        console: where progress is shown.
        folds: from 1 to FOLDS: each trains towers, and adds its unseen videos. Viewers are
            measured with the first.
    """
    found: dict[str, object] = {}
    new_videos: list[dict[str, Int64Array]] = []
    unseen = 0
    for fold in range(folds):
        sets = cold_sets(watches, videos, viewers, fold)
        data = sets.data
        model = train_retrieval(data, config, checkpoints / f"fold-{fold}", console)
        systems = _systems(model, data)
        unseen += int(sets.unseen.sum())
        new_videos.append(_ranks(sets.new_videos, systems, data.video_count))
        if fold:
            continue
        found["order"] = "two_tower"
        found["trained_on"] = {
            "viewers": len(data.viewer_ids),
            "videos": int((data.watch_counts > 0).sum()),
            "watches": data.watch_count,
        }
        for name, group in (("viewers", sets.new_viewers), ("late_viewers", sets.late_viewers)):
            found[name] = {
                known: _measured([_ranks(cases, systems, data.video_count)])
                for known, cases in group.items()
            }
    return {**found, "videos": {"videos": unseen, "folds": folds, **_measured(new_videos)}}


def _systems(model: TwoTower, data: RetrievalData) -> dict[str, Scorer]:
    past = np.split(data.train.rows, data.train.offsets[1:-1])
    popularity = PopularityConfig().fit(Fitter(Past(past, data.video_count)))
    return {
        "vireo": tower_scorer(model, data),
        "popularity": lambda cases: popularity([case.watched for case in cases]),
        "content_knn": lambda cases: content_scores(data, cases),
    }


def _ranks(cases: Cases, systems: Mapping[str, Scorer], videos: int) -> dict[str, Int64Array]:
    """Return where systems rank the watched videos, int64[c], and in how many as "choices"."""
    # Similar lengths together, since a batch is padded to its longest history.
    cases = sorted(cases, key=lambda case: len(case.viewer.watched_keys))
    ever = np.zeros(videos, np.int64)  # whenever they were published
    ranks = {name: ranks_of(cases, score, ever) for name, score in systems.items()}
    choices = np.array([videos - len(case.watched) for case in cases], np.int64)
    return ranks | {"choices": choices}


def _measured(parts: Sequence[Mapping[str, Int64Array]]) -> dict[str, object]:
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    choices = together.pop("choices")
    measured: dict[str, dict[str, float]] = {}
    for name, ranks in together.items():
        error = float(gains(ranks, 10).std() / len(ranks) ** 0.5) if len(ranks) else 0.0
        measured[name] = means(ranks) | {"ndcg_10_error": error}
    measured["random"] = random_measures(choices)
    return {"cases": len(choices), "systems": measured}


def random_measures(choices: Int64Array) -> dict[str, float]:
    """Return the expected measures of a random order, given each case's number of candidates."""
    sizes = np.maximum(choices, 1.0)
    gain = float((1 / np.log2(np.arange(10) + 2.0)).sum())
    chance = float((1 / sizes).mean()) if len(sizes) else 0.0
    return {
        "hr_10": min(1.0, 10 * chance),
        "ndcg_10": gain * chance,
        "recall_100": float(np.minimum(1, 100 / sizes).mean()) if len(sizes) else 0.0,
    }
