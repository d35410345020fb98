"""Batches of the ranking set as the model takes them: vectors looked up by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from server.features.ranking_inputs import RETRIEVAL_FEATURES
from training.ranking.training_set import LikeLabels, ViewerColumns, WatchLists

Places = npt.NDArray[np.intp]


class Batches:
    """Makes inputs of label events, given the video vectors float32[n, d]."""

    def __init__(self, vectors: npt.NDArray[np.float32]) -> None:
        padding = np.zeros((1, vectors.shape[1]), np.float32)
        # Row -1 is padding: it finds the zeros at the end.
        self._table = torch.from_numpy(np.concatenate([vectors, padding]))
        self.vector_size = vectors.shape[1]

    def watch_inputs(self, lists: WatchLists, places: Places) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs of the lists at `places`, and which columns are real, bool[b, n]."""
        rows = torch.from_numpy(lists.rows[places])
        inputs = self._viewer_inputs(lists.viewers, places) | {
            "candidate_vectors": self._table[rows],
            "candidate_features": torch.from_numpy(lists.features[places]),
            "retrieval_features": torch.from_numpy(lists.retrieval[places]),
            "match_features": torch.from_numpy(lists.match[places]),
        }
        return inputs, rows >= 0

    def like_inputs(self, likes: LikeLabels, places: Places) -> dict[str, Tensor]:
        """Model inputs of the labels at `places`, one candidate each.

        Retrieval features are zeros: the like task doesn't read them.
        """
        return self._viewer_inputs(likes.viewers, places) | {
            "candidate_vectors": self._table[torch.from_numpy(likes.rows[places])][:, None],
            "candidate_features": torch.from_numpy(likes.features[places])[:, None],
            "retrieval_features": torch.zeros(len(places), 1, len(RETRIEVAL_FEATURES)),
            "match_features": torch.from_numpy(likes.match[places])[:, None],
        }

    def _viewer_inputs(self, viewers: ViewerColumns, places: Places) -> dict[str, Tensor]:
        lengths = viewers.history_lengths[places]
        width = max(1, int(lengths.max(initial=0)))
        return {
            "history_vectors": self._table[torch.from_numpy(viewers.history_rows[places, :width])],
            "history_lengths": torch.from_numpy(lengths),
            "viewer_features": torch.from_numpy(viewers.viewer_features[places]),
            "attributes": torch.from_numpy(viewers.attributes[places]),
        }


def chunks(places: Places, size: int) -> Sequence[Places]:
    """`places` in pieces of at most `size`."""
    return [places[start : start + size] for start in range(0, len(places), size)]
