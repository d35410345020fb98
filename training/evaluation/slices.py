"""Where a system's hits are: its slates by popularity, and groups of the test viewers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vireo.server.arrays import BoolArray, Float64Array, Int64Array
from vireo.training.comparison import with_intervals
from vireo.training.evaluation.systems import SystemReport
from vireo.training.evaluation.viewers import TestViewers

_HEAD, _MID = 0.1, 0.5
"""The most watched tenth of the catalogue is the head; the middle follows, up to half of it."""
_DAY = 86_400.0


def popularity_curves(
    counts: Int64Array, watched: Int64Array, systems: Mapping[str, SystemReport]
) -> dict[str, list[float]]:
    """Return the `popularity_shares` of all watches, and of each system's ten best.

    Args:
        counts: watches of each video, int64[n].
        watched: rows of all watches, in any order.
        systems: by name.
    """
    shares = {"watches": popularity_shares(counts, watched)}
    for name, system in systems.items():
        shares[name] = popularity_shares(counts, system.slates[:, :10])
    return {name: share.tolist() for name, share in shares.items()}


def popularity_shares(counts: Int64Array, slates: Int64Array) -> Float64Array:
    """Return the share of `slates` that each decile of videos has, float64[10].

    Args:
        counts: watches of each video, int64[n]; the first decile has the most watched.
        slates: rows, any shape, -1 for none.
    """
    decile = np.empty(len(counts), np.int64)
    order = np.argsort(-counts, kind="stable")
    decile[order] = np.arange(len(counts)) * 10 // max(len(counts), 1)
    taken = np.bincount(decile[slates[slates >= 0]], minlength=10).astype(np.float64)
    shares: Float64Array = taken / max(taken.sum(), 1.0)
    return shares


@dataclass(frozen=True)
class Slicing:
    """A partition of the test viewers."""

    title: str
    groups: Mapping[str, BoolArray]
    """Who is in each group, bool[v], by the group's description."""


def slicings(
    watches: pd.DataFrame, videos: pd.DataFrame, viewers: TestViewers, counts: Int64Array
) -> dict[str, Slicing]:
    """Partition the test viewers by activity, and by popularity and age of the target.

    Args:
        watches: the split, whose test part are `viewers`.
        videos: the catalogue, a row a video.
        viewers: the test viewers.
        counts: watches of each video before the test, int64[n].
    """
    lengths = np.array([len(rows) for rows in viewers.watched], np.float64)
    return {
        "activity": Slicing(
            "Videos that the viewer had watched before", _quarters(lengths, "{:,.0f} to {:,.0f}")
        ),
        "popularity": Slicing(
            "Popularity of the held-out video", _popularity(counts, viewers.targets)
        ),
        "age": Slicing(
            "Age of the held-out video when it was watched, in days since it was published "
            "(if that isn't known: since anyone's first watch)",
            _quarters(_ages(watches, videos, viewers.targets), "{:,.0f} to {:,.0f} days"),
        ),
    }


def _quarters(values: Float64Array, form: str) -> dict[str, BoolArray]:
    """Return four groups of similar size, smallest values first; fewer if values repeat."""
    cuts = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    place = np.searchsorted(cuts, values, side="left")
    parts = [place == number for number in range(len(cuts) + 1)]
    return {
        form.format(values[part].min(), values[part].max()): part for part in parts if part.any()
    }


def _popularity(counts: Int64Array, targets: Int64Array) -> dict[str, BoolArray]:
    place = np.empty(len(counts), np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    share = place[targets] / len(counts)
    groups = {
        "head: most watched tenth": share < _HEAD,
        "middle: the next four tenths": (share >= _HEAD) & (share < _MID),
        "tail: least watched half": share >= _MID,
    }
    return {name: part for name, part in groups.items() if part.any()}


def _ages(watches: pd.DataFrame, videos: pd.DataFrame, targets: Int64Array) -> Float64Array:
    """Return the days from each target's publication, or else first watch, to the test watch."""
    test = watches[watches["part"] == "test"]
    first = watches.groupby("video_id")["time"].min()
    born = videos["published"].fillna(videos["video_id"].map(first)).iloc[targets]
    age = (test["time"].reset_index(drop=True) - born.reset_index(drop=True)).dt.total_seconds()
    return np.asarray(age.fillna(0.0) / _DAY, np.float64)


def sliced(cut: Mapping[str, Slicing], ranks: Mapping[str, Int64Array]) -> dict[str, Any]:
    """Return every system's measures in each group, with intervals.

    Returns:
        By name of the slicing: `title`, and `groups`: a list of `name`, `n` viewers and
        `systems`, as in COMPARISON.
    """
    return {
        name: {
            "title": slicing.title,
            "groups": [
                {
                    "name": group,
                    "n": int(part.sum()),
                    "systems": with_intervals({s: places[part] for s, places in ranks.items()}),
                }
                for group, part in slicing.groups.items()
            ],
        }
        for name, slicing in cut.items()
    }
