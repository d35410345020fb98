"""What the page draws as curves: recall by k, popularity bias, learning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import recall
from training.evaluation.systems import SystemReport

_CUTOFFS = (1, 2, 5, 10, 20, 50, 100, 200, 500)

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


def read_learning(path: Path) -> list[dict[str, Any]]:
    """The lines of a learning curve; none where there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def recall_curves(ranks: Mapping[str, IntArray], videos: int) -> dict[str, Any]:
    """Recall by the length of the list: `k`, and `systems` by name, a number for each k.

    A system that answers lists has no more than they hold; its curve is flat from there.
    """
    cutoffs = [k for k in _CUTOFFS if k <= videos]
    curves = {name: [recall(places, k) for k in cutoffs] for name, places in ranks.items()}
    return {"k": cutoffs, "systems": curves}


def popularity_curves(
    counts: IntArray, watched: IntArray, systems: Mapping[str, SystemReport]
) -> dict[str, list[float]]:
    """How much of the watches, and of each system's ten best, each decile of videos has.

    Args:
        counts: watches of each video, int[n].
        watched: rows of all watches, any order.
        systems: by name.
    """
    shares = {"watches": popularity_shares(counts, watched)}
    for name, system in systems.items():
        shares[name] = popularity_shares(counts, system.slates[:, :10])
    return {name: share.tolist() for name, share in shares.items()}


def popularity_shares(counts: IntArray, slates: IntArray) -> FloatArray:
    """Share of the places of `slates` that each decile of videos takes, float[10].

    Args:
        counts: watches of each video, int[n]; the first decile has the most watched.
        slates: rows, any shape, -1 for none.
    """
    decile = np.empty(len(counts), np.int64)
    order = np.argsort(-np.asarray(counts), kind="stable")
    decile[order] = np.arange(len(counts)) * 10 // max(len(counts), 1)
    taken = np.bincount(decile[slates[slates >= 0]], minlength=10).astype(np.float64)
    shares: FloatArray = taken / max(taken.sum(), 1.0)
    return shares
