"""How much less a video is played that its viewer was shown before, fitted to shown videos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from vireo.server.arrays import BoolArray, Float64Array

MAX_STRENGTH = 2.0
_MIN_ROWS, _MIN_PLAYS = 200, 20
"""Minimum videos that were shown before, and plays among them, that a strength is fitted to."""
_CLIP = 1e-6
"""Minimum probability of a watch, and of none."""
_MIN_SLOPE = 0.5
"""Minimum b: a ranker that says little of plays doesn't make fatigue large."""
_SURE = 3.0
"""Standard errors from which a strength isn't chance."""
_STEPS, _RIDGE = 25, 1e-3
"""Newton's steps of the fit, and the weight that keeps it finite, in videos."""


def fitted_strength(
    watch: npt.NDArray[np.floating],
    position: npt.NDArray[np.integer],
    before: Float64Array,
    played: npt.NDArray[np.floating],
) -> float:
    """Return `fatigue` of the score weights, 0 to MAX_STRENGTH.

    It is 0 if too little was shown again to tell it from 0.

    It is s where the logit of a play is a + b (logit(p) - s log(1 + k)) - c log(position): p is the
    probability of a watch as ranked, k how often the video was shown before.

    Args:
        watch: p of each shown video, NaN if unknown, [n].
        position: its position, from 1, [n].
        before: k, float64[n]; see `times_shown`.
        played: whether it was played, 1 or 0, NaN if it wasn't seen, [n].
    """
    known = np.isfinite(watch) & np.isfinite(played)
    again, plays = np.log1p(before[known]), played[known] > 0
    if np.count_nonzero(again) < _MIN_ROWS or np.count_nonzero(plays[again > 0]) < _MIN_PLAYS:
        return 0.0
    probability = watch[known].astype(np.float64).clip(_CLIP, 1 - _CLIP)
    columns = (np.ones(len(again)), logit(probability), -again, -np.log(position[known]))
    weights, errors = _regression(np.stack(columns, 1), plays)
    if weights[2] <= _SURE * errors[2]:
        return 0.0
    # Ranking multiplies the probability itself: what counts is the fall in units of its logit.
    return float(np.clip(weights[2] / max(weights[1], _MIN_SLOPE), 0, MAX_STRENGTH))


def _regression(inputs: Float64Array, labels: BoolArray) -> tuple[Float64Array, Float64Array]:
    """Return the weights of a logistic regression of inputs float64[n, d], and standard errors."""
    weights, ridge = np.zeros(inputs.shape[1]), _RIDGE * np.eye(inputs.shape[1])
    for _ in range(_STEPS):
        chance = expit(inputs @ weights)
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + ridge
        weights += np.linalg.solve(curvature, inputs.T @ (labels - chance) - ridge @ weights)
    return weights, np.sqrt(np.diag(np.linalg.inv(curvature)))
