"""Cross-entropy of the next watch, over all videos or over a sample of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.towers import readable

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
    states: Tensor, vectors: Tensor, targets: Tensor, later: Later | None = None
) -> Tensor:
    """Return the mean over positions of -log softmax(states @ vectors.T)[targets].

    Matrix products are in autocast's dtype if it is enabled, else in float32.

    Args:
        states: float[p, d].
        vectors: float[n, d].
        targets: row of each position's own vector, int64[p].
        later: which vectors are masked; none by default.
    """
    loss: Tensor = _CrossEntropy.apply(states, vectors, targets, later, _product_type())  # type: ignore[no-untyped-call]
    return loss


def sampled_cross_entropy(
    states: Tensor,
    own: Tensor,
    vectors: Tensor,
    log_expected: Tensor,
    hidden: Tensor,
    later: Later | None = None,
) -> Tensor:
    """Return `cross_entropy` over each position's own vector and a sample that all share.

    Args:
        states: float[p, d].
        own: vector of each position's target, float[p, d].
        vectors: the sample's vectors, float[m, d].
        log_expected: correction subtracted from the sample's logits, float32[m].
        hidden: masked pairs (position, index in the sample), int64[h, 2], sorted by position.
        later: which vectors of the sample are masked besides; none by default.
    """
    loss: Tensor = _SampledCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, own, vectors, log_expected, hidden, later, _product_type()
    )
    return loss


def _product_type() -> torch.dtype:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return torch.float32


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        vectors: Tensor,
        targets: Tensor,
        later: Later | None,
        dtype: torch.dtype,
    ) -> Tensor:
        s, v = states.detach().to(dtype), vectors.detach().to(dtype)
        state_gradient = torch.empty_like(s)
        vector_gradient = torch.zeros(v.shape)
        loss = torch.zeros(())
        for start in range(0, len(s), CHUNK):
            rows = slice(start, start + CHUNK)
            part, own = s[rows], targets[rows, None]
            logits = part @ v.T
            if later is not None:
                later.mask(logits, rows)
            shares = torch.softmax(logits, dim=1)
            chosen = shares.gather(1, own)
            loss -= chosen.float().clamp(min=1e-30).log().sum()
            # From here on, `shares` is the derivative of the loss by the logits.
            shares.scatter_(1, own, chosen - 1)
            torch.mm(shares, v, out=state_gradient[rows])
            vector_gradient += shares.T @ part
        ctx.save_for_backward(state_gradient, vector_gradient)
        ctx.types = states.dtype, vectors.dtype
        return loss / len(s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_states, by_vectors = ctx.saved_tensors
        scale = gradient / len(by_states)
        return (
            _scaled(by_states, scale, ctx.types[0]),
            _scaled(by_vectors, scale, ctx.types[1]),
            None,
            None,
            None,
        )


class _SampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        own: Tensor,
        vectors: Tensor,
        log_expected: Tensor,
        hidden: Tensor,
        later: Later | None,
        dtype: torch.dtype,
    ) -> Tensor:
        s, o, v = (tensor.detach().to(dtype) for tensor in (states, own, vectors))
        correction = log_expected.to(dtype)
        state_gradient = torch.empty_like(s)
        own_gradient = torch.empty_like(o)
        vector_gradient = torch.zeros(v.shape)
        loss = torch.zeros(())
        bounds = torch.searchsorted(
            hidden[:, 0].contiguous(), torch.arange(0, len(s) + CHUNK, CHUNK)
        )
        for chunk, start in enumerate(range(0, len(s), CHUNK)):
            rows = slice(start, start + CHUNK)
            part = s[rows]
            sampled = part @ v.T - correction
            if later is not None:
                later.mask(sampled, rows)
            logits = torch.cat([(part * o[rows]).sum(1, keepdim=True), sampled], dim=1)
            position, place = hidden[bounds[chunk] : bounds[chunk + 1]].T
            logits[position - start, place + 1] = HIDDEN
            shares = torch.softmax(logits, dim=1)
            chosen, others = shares[:, :1], shares[:, 1:]
            loss -= chosen.float().clamp(min=1e-30).log().sum()
            missing = chosen - 1
            state_gradient[rows] = others @ v + missing * o[rows]
            own_gradient[rows] = missing * part
            vector_gradient += others.T @ part
        ctx.save_for_backward(state_gradient, own_gradient, vector_gradient)
        ctx.types = states.dtype, own.dtype, vectors.dtype
        return loss / len(s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradient / len(ctx.saved_tensors[0])
        gradients = zip(ctx.saved_tensors, ctx.types, strict=True)
        scaled = (_scaled(values, scale, dtype) for values, dtype in gradients)
        return (*scaled, None, None, None, None)


def _scaled(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (values.float() * scale).to(dtype)


def full_softmax_loss(
    model: TwoTower,
    history: Tensor,
    gaps: Tensor,
    attributes: Tensor,
    targets: Tensor,
    context: Tensor,
    moments: Tensor,
    published: Tensor | None = None,
) -> Tensor:
    """Return the mean loss over all positions that have a target.

    Classes are the videos published by then: otherwise every earlier watch would count as evidence
    against a later video.

    Args:
        model: the towers.
        history: row + 1 of the videos watched, int64[b, l].
        gaps: int64[b, l + 1], see `WindowBatch`.
        attributes: int64[b, a].
        targets: row of the video watched next, -1 for padding, int64[b, l + 1].
        context: ids of the context in which it was watched, int64[b, l + 1, c].
        moments: when that was, Unix seconds, int64[b, l + 1].
        published: as in `RetrievalData.published`, int64[n]; None if all came before any watch.
    """
    vectors = model.video_vectors()
    watched = F.embedding(history, readable(vectors))
    states = model.viewer_tower(watched, gaps, attributes, context=context)
    real = targets >= 0
    later = None if published is None else Later(published, moments[real])
    return cross_entropy(states[real], vectors, targets[real], later)


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
        moments: Tensor,
        published: Tensor | None = None,
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
        later = None if published is None else Later(published[drawn], moments[real])
        return sampled_cross_entropy(
            states,
            vectors[positives],
            vectors[sampled],
            self._log_expected[drawn],
            _same(positives, sampled),
            later,
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
