"""Interface of trained towers, one pair or several, and viewers' vectors computed by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor

from training.retrieval.config import RetrievalConfig

if TYPE_CHECKING:
    from training.retrieval.model import ViewerSide


class Towers(Protocol):
    """Trained towers for n videos, with vectors of d dimensions."""

    config: RetrievalConfig
    video_count: int
    attribute_count: int

    def eval(self) -> Self:
        """Turn off dropout."""

    def video_vectors(self) -> Tensor:
        """Return the catalogue's vectors, by row, float32[n, d]."""

    def content_vectors(self) -> Tensor:
        """Return the content part of every video's vector, without its id's, float32[n, c]."""

    def viewer_side(self) -> ViewerSide:
        """Return the module that computes viewers' vectors from videos' vectors."""


def readable(vectors: Tensor) -> Tensor:
    """Prepend zeros for unknown videos, for look-ups by row + 1: float32[n + 1, d]."""
    return F.pad(vectors, (0, 0, 1, 0))


def viewer_vectors(
    towers: Towers, table: Tensor, inputs: Mapping[str, npt.NDArray[np.int64]]
) -> Tensor:
    """Return viewers' vectors, float32[b, d].

    Args:
        towers: the trained towers.
        table: `readable(towers.video_vectors())`, shared by batches, float32[n + 1, d].
        inputs: `server.features.tower_inputs.tower_inputs` of b viewers.
    """
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    watched = F.embedding(tensors.pop("history"), table)
    vectors: Tensor = towers.viewer_side()(watched, **tensors)
    return vectors
