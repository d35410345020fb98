"""Whether slates have the ranking model's inputs in the distributions that it was trained on.

A shift needn't be a fault: videos get older, and viewers change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vireo.server.arrays import Float32Array, Float64Array
from vireo.server.consumer.archived_rows import Row, request_of
from vireo.server.features.model_inputs import (
    LANGUAGE_MATCH,
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
    match_features,
    retrieval_features,
    viewer_features,
)
from vireo.server.pod.viewer import decode_viewer
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.signals import SCORES
from vireo.training.ranking.training_set import CandidateLists, match_table

SHIFTED = 0.25
"""Population stability index from which a distribution counts as another one."""
_BINS = 10
_MIN_SHARE = 1e-4
"""Share that a bin without values counts as."""


@dataclass(frozen=True)
class Distribution:
    """A feature of the ranking model as it was trained on, and as it was served."""

    feature: str
    trained: float
    """Mean in training."""
    served: float
    """Mean in slates."""
    stability: float
    """Population stability index over ten bins of equally many trained values; 0 if equal."""

    @property
    def shifted(self) -> bool:
        """Whether it counts as another distribution."""
        return self.stability > SHIFTED


def distributions(
    rows: Sequence[Row], release: CandidateRelease, lists: CandidateLists
) -> list[Distribution]:
    """Return each feature of candidates and viewers, as training's lists and as slates have it.

    Candidates of slates count by how many they stand for, and viewers count alike.

    Args:
        rows: slates of the release, with their candidates' scores.
        release: what answered.
        lists: those of the watches that it was trained on.
    """
    parts: list[Float32Array] = [
        part[lists.rows >= 0] for part in (lists.features, lists.retrieval, lists.match)
    ]
    parts.append(lists.viewers.viewer_features)
    names: tuple[Sequence[str], ...] = (
        [f"video {name}" for name in VIDEO_FEATURES],
        [f"retrieval {name}" for name in RETRIEVAL_FEATURES],
        [f"match {name}" for name in (*MATCH_FEATURES, LANGUAGE_MATCH)[: lists.match.shape[-1]]],
        [f"viewer {name}" for name in VIEWER_FEATURES],
    )
    found = []
    for named, part, (served, weights) in zip(names, parts, _served(rows, release), strict=True):
        for name, trained, values in zip(named, part.T, served.T, strict=True):
            means = float(np.mean(trained)), float(np.average(values, weights=weights))
            found.append(Distribution(name, *means, _stability(trained, values, weights)))
    return found


def _served(
    rows: Sequence[Row], release: CandidateRelease
) -> list[tuple[Float32Array, Float64Array]]:
    """Return features of videos, retrieval, matches and viewers, and how much each row counts."""
    table, parts = match_table(release), []
    slates = Counter(row["viewer_id"] for row in rows)
    weights, of_viewers = list[Float64Array](), list[float]()
    for row in rows:
        request, places = request_of(row), np.array(row["recorded"], np.int64)
        seed = request.seed_key if request.HasField("seed_key") else None
        viewer = decode_viewer(request.viewer).playing(seed)
        found = release.rows.find(np.array(row["candidate_keys"], np.int64)[places])
        own = np.flatnonzero(found >= 0)
        scores = {
            score.name: np.array(row[f"retrieval_{score.name}"], np.float32)[own]
            for score in SCORES
        }
        masks = np.array(row["candidate_sources"], np.uint32)[places[own]]
        history = release.rows.find(viewer.history_keys)
        parts.append(
            (
                np.asarray(table.features.take(found[own], axis=0)),
                retrieval_features(scores, masks),
                match_features(viewer.context, history[history >= 0], found[own], table),
                viewer_features(viewer)[None],
            )
        )
        of_viewers.append(1 / slates[row["viewer_id"]])
        weights.append(of_viewers[-1] * _stands_for(row)[own])
    columns: list[Float32Array] = [np.concatenate(each) for each in zip(*parts, strict=True)]
    counted = [*[np.concatenate(weights)] * (len(columns) - 1), np.array(of_viewers)]
    return [*zip(columns, counted, strict=True)]


def _stands_for(row: Row) -> Float64Array:
    """Return how many candidates each recorded one stands for: of the rest there is a sample."""
    total, recorded = len(row["candidate_keys"]), len(row["recorded"])
    sampled = min((recorded - len(row["video_ids"])) // 6, total - recorded)
    counts = np.ones(recorded)
    if sampled:
        counts[recorded - sampled :] = (total - recorded + sampled) / sampled
    return counts


def _stability(trained: Float32Array, served: Float32Array, weights: Float64Array) -> float:
    """Return the population stability index of weighted values against others."""
    quantiles = np.quantile(trained, np.arange(1, _BINS) / _BINS).astype(np.float32)
    # A value that is several quantiles has a bin of its own.
    edges = np.unique([*quantiles, *np.nextafter(quantiles, np.float32(-np.inf))])
    bins = len(edges) + 1

    def shares(values: Float32Array, weights: Float64Array | None) -> Float64Array:
        counts = np.bincount(np.searchsorted(edges, values), weights, bins)
        return np.asarray(np.maximum(counts / counts.sum(), _MIN_SHARE), np.float64)

    one, other = shares(trained, None), shares(served, weights)
    return float(np.sum((other - one) * np.log(other / one)))
