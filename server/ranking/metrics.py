"""Prometheus metrics of what the ranking model predicts."""

from __future__ import annotations

from server.arrays import Float32Array
from server.histogram import Histogram

_SCORE = Histogram(
    "vireo_ranking_score",
    "Scores of the videos in ranked pages.",
    buckets=(
        *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
        *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1),
    ),
).labels()
_PREDICTED_WATCH = Histogram(
    "vireo_predicted_watch",
    "Mean predicted probability of a watch, by page.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
).labels()


def count_page(scores: Float32Array, watch: Float32Array) -> None:
    """Count a ranked page of n videos; an empty one isn't counted.

    Args:
        scores: float32[n], what orders them.
        watch: float32[n], predicted probabilities of a watch.
    """
    for score in scores.tolist():
        _SCORE.observe(score)
    if len(watch):
        _PREDICTED_WATCH.observe(sum(watch.tolist()) / len(watch))
