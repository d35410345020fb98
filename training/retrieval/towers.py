"""Viewers' vectors, computed by trained towers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor

from vireo.server.arrays import Int64Array

if TYPE_CHECKING:
    from vireo.training.retrieval.model import TwoTower


VIEWERS_AT_ONCE = 128
"""Viewers whose attention is computed at once; bounds memory."""


def readable(vectors: Tensor) -> Tensor:
    """Prepend zeros for unknown videos, for look-ups by row + 1: float32[n + 1, d]."""
    return F.pad(vectors, (0, 0, 1, 0))


def viewer_vectors(towers: TwoTower, table: Tensor, inputs: Mapping[str, Int64Array]) -> Tensor:
    """Return viewers' vectors, float32[b, d].

    Args:
        towers: the trained towers.
        table: `readable(towers.video_vectors())`, shared by batches, float32[n + 1, d].
        inputs: `vireo.server.features.tower_inputs.tower_inputs` of b viewers.
    """
    parts = []
    for start in range(0, max(1, len(inputs["lengths"])), VIEWERS_AT_ONCE):
        some = slice(start, start + VIEWERS_AT_ONCE)
        tensors = {name: torch.from_numpy(array[some]) for name, array in inputs.items()}
        watched = F.embedding(tensors.pop("history"), table)
        parts.append(towers.viewer_tower.request_vectors(watched, **tensors))
    return torch.cat(parts)
