"""Recommenders under test, each ranked in full over the test viewers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.evaluation.baselines import BASELINES, QUICK, Config, Past, fitted
from vireo.training.evaluation.viewers import TestViewers
from vireo.training.metrics import coverage, full_ranking, hit_rate, ndcg, viewer_chunks

SLATE = 100
"""Length of the list that is kept for each viewer."""
SYSTEMS = (*BASELINES, "two_tower", "chain", "served")
"""Every system that an evaluation may have, in the order of reports."""
RANKS = "ranks.npz"
"""File of a report: `viewer_ids`, and each system's ranks and slates."""
_VIEWERS = "viewer_ids"
_SLATE_OF = "slate_of_"


@dataclass(frozen=True)
class SystemReport:
    """A system's results on the held-out watches."""

    ranks: Int64Array
    """0-based rank of each held-out video, int64[v]."""
    slates: Int64Array
    """Rows of the SLATE best, int64[v, SLATE], -1 for none."""

    def measures(self, video_count: int) -> dict[str, float]:
        """Return HR@10, NDCG@10, Recall@50, Recall@100, and coverage of the first ten places."""
        return {
            "hr_10": hit_rate(self.ranks, 10),
            "ndcg_10": ndcg(self.ranks, 10),
            "recall_50": hit_rate(self.ranks, 50),
            "recall_100": hit_rate(self.ranks, 100),
            "coverage_10": coverage(self.slates[:, :10], video_count),
        }


@dataclass(frozen=True)
class Systems:
    """Every system's results on the test viewers."""

    viewer_ids: tuple[str, ...]
    """In the order of every array."""
    reports: Mapping[str, SystemReport] = field(default_factory=dict)
    """By name, in the order of SYSTEMS."""

    @property
    def ranks(self) -> dict[str, Int64Array]:
        """0-based rank of each held-out video by system, int64[v]."""
        return {name: report.ranks for name, report in self.reports.items()}

    def also(self, reports: Mapping[str, SystemReport]) -> Systems:
        """Return these with other systems, which replace those of the same name."""
        together = {**self.reports, **reports}
        ordered = {name: together[name] for name in SYSTEMS if name in together}
        return Systems(self.viewer_ids, ordered)

    @staticmethod
    def load(folder: Path, viewer_ids: tuple[str, ...]) -> Systems:
        """Read RANKS; without systems if there is no file or it is of other viewers."""
        path = folder / RANKS
        if not path.exists():
            return Systems(viewer_ids)
        with np.load(path) as file:
            if tuple(file[_VIEWERS].tolist()) != viewer_ids:
                return Systems(viewer_ids)
            reports = {
                name: SystemReport(file[name], file[_SLATE_OF + name].astype(np.int64))
                for name in SYSTEMS
                if name in file
            }
        return Systems(viewer_ids, reports)

    def write(self, folder: Path) -> None:
        """Write RANKS: `viewer_ids`, and each system's ranks and slates."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, npt.NDArray[Any]] = {_VIEWERS: np.array(self.viewer_ids, np.str_)}
        for name, report in self.reports.items():
            arrays[name] = report.ranks
            arrays[_SLATE_OF + name] = report.slates.astype(np.int32)
        partial = folder / f"partial-{RANKS}"
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(folder / RANKS)


def of_chunks(
    scores: Callable[[slice], Float32Array], viewers: TestViewers, videos: int
) -> SystemReport:
    """Return the results of a system that scores every video, ranked over the unwatched ones.

    Those that weren't published by then rank last, and are in no slate.

    Args:
        scores: returns the scores of a slice of the viewers, float32[some, n].
        viewers: the test viewers.
        videos: size n of the catalogue.
    """
    ranks = np.empty(len(viewers.ids), np.int64)
    slates = np.empty((len(viewers.ids), SLATE), np.int64)
    for part in viewer_chunks(len(viewers.ids), videos):
        own, watched = scores(part), viewers.watched[part]
        if (later := viewers.unpublished(part)) is not None:
            own = np.where(later, -np.inf, own)
        ranks[part] = full_ranking(own, watched, viewers.targets[part])
        slates[part] = best_unwatched(own, watched)
    return SystemReport(ranks, slates)


def of_lists(lists: Int64Array, viewers: TestViewers) -> SystemReport:
    """Return the results of a system that returns lists, int64[v, at least SLATE].

    A video that isn't in its list is a miss.
    """
    return SystemReport(list_ranks(lists, viewers.targets), lists[:, :SLATE])


def best_unwatched(scores: Float32Array, watched: Sequence[Int64Array]) -> Int64Array:
    """Return rows of each viewer's SLATE best unwatched videos, int64[v, SLATE], -1 for none."""
    slates = np.full((len(scores), SLATE), -1, np.int64)
    for place, rows in enumerate(watched):
        own = np.array(scores[place])
        own[rows] = -np.inf
        # Sorting all takes several times as long as finding the last score that counts.
        cutoff = np.partition(own, -SLATE)[-SLATE] if len(own) > SLATE else -np.inf
        reached = np.flatnonzero((own >= cutoff) & np.isfinite(own))
        best = reached[np.argsort(-own[reached], kind="stable")][:SLATE]
        slates[place, : len(best)] = best
    return slates


def baseline_systems(
    past: Past,
    viewers: TestViewers,
    names: Sequence[str] = QUICK,
    settings: Mapping[str, Config] = MappingProxyType({}),
) -> dict[str, SystemReport]:
    """Measure the baselines that are `fitted` with these arguments on the test viewers."""
    return {
        name: of_chunks(
            lambda part, model=baseline: model.scores(viewers.watched[part]),  # type: ignore[misc]
            viewers,
            past.videos,
        )
        for name, baseline in fitted(names, past, settings)
    }


def list_ranks(lists: Int64Array, targets: Int64Array) -> Int64Array:
    """Return the 0-based place of each target in its list, int64[v]; the maximum if missing."""
    hits = lists == targets[:, None]
    return np.where(hits.any(1), hits.argmax(1), np.iinfo(np.int64).max)
