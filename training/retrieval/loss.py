"""Cross-entropy of the next watch, over all videos or over a sample of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.retrieval.cross_entropy import cross_entropy, sampled_cross_entropy
from training.retrieval.model import TwoTower
from training.retrieval.towers import readable


def full_softmax_loss(
    model: TwoTower,
    history: Tensor,
    gaps: Tensor,
    attributes: Tensor,
    targets: Tensor,
    context: Tensor,
) -> Tensor:
    """Return the mean loss over all positions that have a target, every video being a class.

    Args:
        model: the towers.
        history: row + 1 of the videos watched, int64[b, l].
        gaps: int64[b, l + 1], see `WindowBatch`.
        attributes: int64[b, a].
        targets: row of the video watched next, -1 for padding, int64[b, l + 1].
        context: ids of the context in which it was watched, int64[b, l + 1, c].
    """
    vectors = model.video_vectors()
    watched = F.embedding(history, readable(vectors))
    states = model.viewer_tower(watched, gaps, attributes, context=context)
    real = targets >= 0
    return cross_entropy(states[real], vectors, targets[real])


class SampledSoftmax:
    """Softmax loss over a sample of videos drawn by popularity, with the logQ correction.

    All positions of a batch share the sample. Subtracting the log of a negative's expected count
    in the sample makes the loss an estimate of the full softmax, so that popular videos aren't
    penalised for being drawn more often. The target is always included and isn't corrected.
    """

    def __init__(self, counts: Tensor, negatives: int, power: float) -> None:
        """Compute the sampling distribution.

        Args:
            counts: watches of each video, int64[n].
            negatives: sample size, drawn with replacement.
            power: exponent of the watch count; 0 is uniform, 1 by popularity.
        """
        # Unwatched videos must be drawn too.
        weights = counts.double().clamp(min=0.25) ** power
        self._cumulated = (weights / weights.sum()).cumsum(0)
        self._log_expected = (negatives * weights / weights.sum()).log().float()
        self._negatives = negatives

    def __call__(
        self,
        model: TwoTower,
        history: Tensor,
        gaps: Tensor,
        attributes: Tensor,
        targets: Tensor,
        context: Tensor,
    ) -> Tensor:
        """Return the estimated loss; arguments are those of `full_softmax_loss`."""
        draws = torch.rand(self._negatives, dtype=torch.float64)
        drawn = torch.searchsorted(self._cumulated, draws).clamp(max=len(self._cumulated) - 1)
        real = targets >= 0
        # Only these videos' vectors are computed; `places` are their indices.
        needed = torch.cat([drawn, targets[real], history[history > 0] - 1])
        rows, places = torch.unique(needed, return_inverse=True)
        sampled, positives, read = places.split(
            [len(drawn), int(real.sum()), int((history > 0).sum())]
        )
        vectors = model.video_tower(rows)
        local_history = torch.zeros_like(history)
        local_history[history > 0] = read + 1
        states = model.viewer_tower(
            F.embedding(local_history, readable(vectors)), gaps, attributes, context=context
        )[real]

        return sampled_cross_entropy(
            states,
            vectors[positives],
            vectors[sampled],
            self._log_expected[drawn],
            _same(positives, sampled),
        )


def _same(positives: Tensor, sampled: Tensor) -> Tensor:
    """Return the pairs (position, index in the sample) of the same video, int64[h, 2]."""
    order = torch.argsort(sampled)
    ordered = sampled[order]
    first = torch.searchsorted(ordered, positives)
    count = torch.searchsorted(ordered, positives, right=True) - first
    position = torch.repeat_interleave(count)
    step = torch.arange(len(position)) - (count.cumsum(0) - count)[position]
    return torch.stack([position, order[first[position] + step]], dim=1)
