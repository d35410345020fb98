"""What serving is made from: trained towers, of one pair or of several, and viewers' vectors."""

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
    """Trained towers of n videos and vectors of d dimensions."""

    config: RetrievalConfig
    video_count: int
    attribute_count: int

    def eval(self) -> Self:
        """Without dropout from now on."""

    def video_vectors(self) -> Tensor:
        """Vectors of the catalogue, by row, float32[n, d]."""

    def content_vectors(self) -> Tensor:
        """The content part of every video's vector, without its id's, float32[n, c]."""

    def viewer_side(self) -> ViewerSide:
        """The part that a viewer's vector takes besides the videos' vectors."""


def readable(vectors: Tensor) -> Tensor:
    """Vectors to look up by row + 1: zeros for an unknown video first, float32[n + 1, d]."""
    return F.pad(vectors, (0, 0, 1, 0))


def viewer_vectors(
    towers: Towers, table: Tensor, inputs: Mapping[str, npt.NDArray[np.int64]]
) -> Tensor:
    """Return viewers' vectors, float32[b, d].

    Args:
        towers: the trained towers.
        table: `readable(towers.video_vectors())`, which many batches share, float32[n + 1, d].
        inputs: of b viewers, from `server.features.tower_inputs.tower_inputs`.
    """
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    watched = F.embedding(tensors.pop("history"), table)
    vectors: Tensor = towers.viewer_side()(watched, **tensors)
    return vectors
