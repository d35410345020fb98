"""How much less a video is played that its viewer was shown before, fitted to shown videos."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import expit, logit

from vireo.server.arrays import BoolArray, Float64Array
from vireo.server.features.activity import SHOWN_SECONDS
from vireo.server.features.fatigue import faded

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


def fitted_strength(shown: pa.Table) -> float:
    """Return `fatigue` of the score weights, 0 to MAX_STRENGTH.

    It is 0 if too little was shown again to tell it from 0.

    It is s where the logit of a play is a + b (logit(p) - s log(1 + k)) - c log(position): p is the
    probability of a watch as ranked, k how often the video was shown before.

    Args:
        shown: what `shown_videos` returns, with `scores`.
    """
    known = shown["task_watch"].is_valid().to_numpy() & shown["seen"].to_numpy()
    again = np.log1p(times_shown_before(shown))[known]
    played = shown["played"].to_numpy()[known]
    if np.count_nonzero(again) < _MIN_ROWS or np.count_nonzero(played[again > 0]) < _MIN_PLAYS:
        return 0.0
    watch = shown["task_watch"].to_numpy()[known].astype(np.float64)
    position = np.log(shown["position"].to_numpy()[known])
    columns = (np.ones(len(watch)), logit(watch.clip(_CLIP, 1 - _CLIP)), -again, -position)
    weights, errors = _regression(np.stack(columns, 1), played)
    if weights[2] <= _SURE * errors[2]:
        return 0.0
    # Ranking multiplies the probability itself: what counts is the fall in units of its logit.
    return float(np.clip(weights[2] / max(weights[1], _MIN_SLOPE), 0, MAX_STRENGTH))


def times_shown_before(shown: pa.Table) -> Float64Array:
    """Return how often each video was shown to its viewer before, as ranking counts it, float64[n].

    Args:
        shown: `viewer_id`, `video_id`, `answered_at` and `seen` of each, by time.
    """
    seconds = shown["answered_at"].cast(pa.int64()).to_numpy() // 1_000_000
    frame = pd.DataFrame(
        {
            name: shown[name].combine_chunks().dictionary_encode().indices.to_numpy()
            for name in ("viewer_id", "video_id")
        }
    ).assign(minute=seconds - seconds % SHOWN_SECONDS)
    seen = shown["seen"].to_numpy()
    repeated = frame[seen].duplicated()
    pairs = frame.groupby(["viewer_id", "video_id"])
    since = pairs["minute"].transform("min").to_numpy()
    # What each counts fades at the same rate: sums of what they counted at the first time suffice.
    counts = pd.Series(1 / faded(frame["minute"].to_numpy() - since))
    counts[~seen] = 0
    counts[repeated.index[repeated]] = 0
    before = counts.groupby([frame["viewer_id"], frame["video_id"]]).cumsum() - counts
    return np.asarray(before.to_numpy() * faded(seconds - since), np.float64)


def _regression(inputs: Float64Array, labels: BoolArray) -> tuple[Float64Array, Float64Array]:
    """Return the weights of a logistic regression of inputs float64[n, d], and standard errors."""
    weights, ridge = np.zeros(inputs.shape[1]), _RIDGE * np.eye(inputs.shape[1])
    for _ in range(_STEPS):
        chance = expit(inputs @ weights)
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + ridge
        weights += np.linalg.solve(curvature, inputs.T @ (labels - chance) - ridge @ weights)
    return weights, np.sqrt(np.diag(np.linalg.inv(curvature)))
