"""Batches of the ranking set as model inputs, with vectors looked up by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vireo.server.arrays import Float32Array
from vireo.server.features.model_inputs import RETRIEVAL_FEATURES
from vireo.training.ranking.training_set import OutcomeLabels, ViewerColumns, WatchLists

Places = npt.NDArray[np.intp]


class Batches:
    """Makes model inputs of label events."""

    def __init__(self, vectors: Float32Array) -> None:
        """Look vectors up by row in float32[n, d]."""
        padding = np.zeros((1, vectors.shape[1]), np.float32)  # is looked up by row -1
        self._table = torch.from_numpy(np.concatenate([vectors, padding]))

    def watch_inputs(self, lists: WatchLists, places: Places) -> tuple[dict[str, Tensor], Tensor]:
        """Return model inputs of the lists at `places`, and a mask of real columns, bool[b, n]."""
        rows = torch.from_numpy(lists.rows[places])
        inputs = self._viewer_inputs(lists.viewers, places) | {
            "candidate_vectors": self._table[rows],
            "candidate_features": torch.from_numpy(lists.features[places]),
            "retrieval_features": torch.from_numpy(lists.retrieval[places]),
            "match_features": torch.from_numpy(lists.match[places]),
        }
        return inputs, rows >= 0

    def outcome_inputs(self, outcomes: OutcomeLabels, places: Places) -> dict[str, Tensor]:
        """Return model inputs of the labels at `places`, one candidate each.

        Retrieval features are zeros: tasks of outcomes don't read them.
        """
        return self._viewer_inputs(outcomes.viewers, places) | {
            "candidate_vectors": self._table[torch.from_numpy(outcomes.rows[places])][:, None],
            "candidate_features": torch.from_numpy(outcomes.features[places])[:, None],
            "retrieval_features": torch.zeros(len(places), 1, len(RETRIEVAL_FEATURES)),
            "match_features": torch.from_numpy(outcomes.match[places])[:, None],
        }

    def _viewer_inputs(self, viewers: ViewerColumns, places: Places) -> dict[str, Tensor]:
        lengths = viewers.history_lengths[places]
        width = max(1, int(lengths.max(initial=0)))
        inputs = {
            "history_vectors": self._table[torch.from_numpy(viewers.history_rows[places, :width])],
            "history_lengths": torch.from_numpy(lengths),
            "viewer_features": torch.from_numpy(viewers.viewer_features[places]),
            "attributes": torch.from_numpy(viewers.attributes[places]),
        }
        if viewers.context.shape[1]:
            inputs["context"] = torch.from_numpy(viewers.context[places])
        return inputs


def chunks(places: Places, size: int) -> Sequence[Places]:
    """Split `places` into chunks of at most `size`."""
    return [places[start : start + size] for start in range(0, len(places), size)]
