"""Cross-entropy of the next watch, over all videos or over a sample of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireo.training.retrieval.model import TwoTower, readable
from vireo.training.retrieval.windows import WindowBatch

CHUNK = 512
"""Positions whose logits are held in memory at once."""
HIDDEN = -1e4
"""Logit of a masked vector: finite, so that bfloat16 yields no NaN."""


class Later(NamedTuple):
    """When videos were published: those that weren't at the time of a position are masked."""

    published: Tensor
    """When the video of each vector was published, Unix seconds, int64[n]."""
    moments: Tensor
    """Time of each position, Unix seconds, int64[p]."""

    def mask(self, logits: Tensor, positions: slice) -> None:
        """Mask the logits of some positions, float[q, n], in place."""
        moments = self.moments[positions]
        some = (self.published > moments.min()).nonzero()[:, 0]
        if len(some):  # Few are, as a rule: a mask of all would take as long as a product.
            later = self.published[some] > moments[:, None]
            logits[:, some] = logits[:, some].masked_fill(later, HIDDEN)


def cross_entropy(
    states: Tensor,
    vectors: Tensor,
    targets: Tensor,
    later: Later | None = None,
    own: Tensor | None = None,
    log_expected: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """Return the mean over positions of -log softmax(states @ vectors.T)[targets].

    With `own` vectors, the others are a sample that all positions share: a position's own is an
    additional first column of its logits, and its target. Matrix products are in autocast's dtype
    if it is enabled, else in float32.

    Args:
        states: float[p, d].
        vectors: float[n, d].
        targets: column of each position's own vector in its logits, int64[p].
        later: which vectors are masked; none by default.
        own: vector of each position's target, float[p, d].
        log_expected: correction subtracted from the sample's logits, float32[n].
        hidden: masked pairs (position, index in the sample), int64[h, 2], sorted by position.
    """
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, vectors, own, targets, later, log_expected, hidden
    )
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The loss and its gradients, CHUNK positions at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        vectors: Tensor,
        own: Tensor | None,
        targets: Tensor,
        later: Later | None,
        correction: Tensor | None,
        hidden: Tensor | None,
    ) -> Tensor:
        dtype = _product_type()
        s, v = states.detach().to(dtype), vectors.detach().to(dtype)
        o = None if own is None else own.detach().to(dtype)
        state_gradient, vector_gradient = torch.empty_like(s), torch.zeros(v.shape)
        own_gradient = None if o is None else torch.empty_like(o)
        loss = torch.zeros(())
        for start in range(0, len(s), CHUNK):
            rows = slice(start, start + CHUNK)
            part, target = s[rows], targets[rows, None]
            logits = part @ v.T
            if correction is not None:
                logits -= correction.to(dtype)
            if later is not None:
                later.mask(logits, rows)
            if o is not None:
                logits = torch.cat([(part * o[rows]).sum(1, keepdim=True), logits], dim=1)
            if hidden is not None:
                position, place = hidden[_between(hidden[:, 0], start, start + CHUNK)].T
                logits[position - start, place + 1] = HIDDEN
            shares = torch.softmax(logits, dim=1)
            chosen = shares.gather(1, target)
            loss -= chosen.float().clamp(min=1e-30).log().sum()
            # From here on, `shares` is the derivative of the loss by the logits.
            missing = chosen - 1
            if o is None or own_gradient is None:
                shares.scatter_(1, target, missing)
                state_gradient[rows] = shares @ v
            else:
                shares = shares[:, 1:]
                state_gradient[rows] = shares @ v + missing * o[rows]
                own_gradient[rows] = missing * part
            vector_gradient += shares.T @ part
        ctx.save_for_backward(state_gradient, vector_gradient, own_gradient)
        ctx.types = [None if each is None else each.dtype for each in (states, vectors, own)]
        return loss / len(s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradient / len(ctx.saved_tensors[0])
        scaled = (
            None if values is None else (values.float() * scale).to(dtype)
            for values, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return (*scaled, None, None, None, None)


def _product_type() -> torch.dtype:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return torch.float32


def _between(positions: Tensor, start: int, stop: int) -> slice:
    """Return the slice of sorted positions from `start` to before `stop`."""
    first, last = torch.searchsorted(positions.contiguous(), torch.tensor([start, stop])).tolist()
    return slice(first, last)


def full_softmax_loss(
    model: TwoTower, batch: WindowBatch, published: Tensor | None = None
) -> Tensor:
    """Return the mean loss over all positions of a batch that have a target.

    Classes are the videos published by then: otherwise every earlier watch would count as evidence
    against a later video. `published` is as in `RetrievalData.published`, int64[n]; None if all
    came before any watch.
    """
    vectors = model.video_vectors()
    watched = F.embedding(batch.history, readable(vectors))
    states = model.viewer_tower(watched, batch.gaps, batch.attributes, context=batch.context)
    real = batch.targets >= 0
    later = None if published is None else Later(published, batch.moments[real])
    return cross_entropy(states[real], vectors, batch.targets[real], later)


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
        self, model: TwoTower, batch: WindowBatch, published: Tensor | None = None
    ) -> Tensor:
        """Return the estimated loss; arguments are those of `full_softmax_loss`."""
        history, targets = batch.history, batch.targets
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
            F.embedding(local_history, readable(vectors)),
            batch.gaps,
            batch.attributes,
            context=batch.context,
        )[real]
        later = None if published is None else Later(published[drawn], batch.moments[real])
        return cross_entropy(
            states,
            vectors[sampled],
            torch.zeros_like(positives),
            later,
            own=vectors[positives],
            log_expected=self._log_expected[drawn],
            hidden=_same(positives, sampled),
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
