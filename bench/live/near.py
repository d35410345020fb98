"""Which videos of a release are near to each other by their content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from server.arrays import Float32Array
from server.releases.layout import CONTENT_VECTORS, VIDEO_IDS, VIDEO_KEYS
from server.releases.tables import read_ids

_NEAREST = 50


def contents(release: Path) -> tuple[list[str], Float32Array]:
    """Return the ids of a release's videos, and their content, unit vectors float32[n, c]."""
    keys = np.load(release / VIDEO_KEYS)
    texts = read_ids(release, VIDEO_IDS, keys)
    ids = [texts[row] for row in range(len(keys))]
    vectors = np.load(release / CONTENT_VECTORS).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return ids, vectors


def nearest(release: Path, limit: int = _NEAREST) -> Mapping[str, frozenset[str]]:
    """Return the nearest videos of each, by the cosine of their content vectors."""
    ids, vectors = contents(release)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.argpartition(cosines, -limit, axis=1)[:, -limit:]
    return {
        video: frozenset(ids[row] for row in near) for video, near in zip(ids, rows, strict=True)
    }
