"""Data of the page's curves: recall by k, popularity bias, learning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from server.arrays import Float64Array, Int64Array
from training.evaluation.metrics import recall
from training.evaluation.systems import SystemReport

_CUTOFFS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def read_learning(path: Path) -> list[dict[str, Any]]:
    """Return the points of a learning curve, none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def recall_curves(ranks: Mapping[str, Int64Array], videos: int) -> dict[str, Any]:
    """Return recall by list length: `k`, and `systems` by name, a number for each k.

    The curve of a system that returns lists is flat beyond their length.
    """
    cutoffs = [k for k in _CUTOFFS if k <= videos]
    curves = {name: [recall(places, k) for k in cutoffs] for name, places in ranks.items()}
    return {"k": cutoffs, "systems": curves}


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
