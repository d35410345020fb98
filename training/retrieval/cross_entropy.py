"""Cross-entropy of states against many vectors, without materialising all logits.

Both losses are means over positions, so that a chunk's gradients follow from its softmax: they are
computed in the forward pass, chunk by chunk, and a chunk's logits are freed before the next. That
halves training time on a CPU, which is bound by writing and reading the logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512
"""Positions whose logits are held in memory at once."""
HIDDEN = -1e4
"""Logit of a masked vector: finite, so that bfloat16 yields no NaN."""


def cross_entropy(states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over positions of -log softmax(states @ vectors.T)[targets].

    Matrix products are in autocast's dtype if it is enabled, else in float32.

    Args:
        states: float[p, d].
        vectors: float[n, d].
        targets: row of each position's own vector, int64[p].
    """
    loss: Tensor = _CrossEntropy.apply(states, vectors, targets, _product_type())  # type: ignore[no-untyped-call]
    return loss


def sampled_cross_entropy(
    states: Tensor, own: Tensor, vectors: Tensor, log_expected: Tensor, hidden: Tensor
) -> Tensor:
    """Return `cross_entropy` over each position's own vector and a sample that all share.

    Args:
        states: float[p, d].
        own: vector of each position's target, float[p, d].
        vectors: the sample's vectors, float[m, d].
        log_expected: correction subtracted from the sample's logits, float32[m].
        hidden: masked pairs (position, index in the sample), int64[h, 2], sorted by position.
    """
    loss: Tensor = _SampledCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, own, vectors, log_expected, hidden, _product_type()
    )
    return loss


def _product_type() -> torch.dtype:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return torch.float32


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, vectors: Tensor, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        s, v = states.detach().to(dtype), vectors.detach().to(dtype)
        state_gradient = torch.empty_like(s)
        vector_gradient = torch.zeros(v.shape)
        loss = torch.zeros(())
        for start in range(0, len(s), CHUNK):
            part, own = s[start : start + CHUNK], targets[start : start + CHUNK, None]
            shares = torch.softmax(part @ v.T, dim=1)
            chosen = shares.gather(1, own)
            loss -= chosen.float().clamp(min=1e-30).log().sum()
            # From here on, `shares` is the derivative of the loss by the logits.
            shares.scatter_(1, own, chosen - 1)
            torch.mm(shares, v, out=state_gradient[start : start + CHUNK])
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
            logits = torch.cat(
                [(part * o[rows]).sum(1, keepdim=True), part @ v.T - correction], dim=1
            )
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
        return (*(_scaled(values, scale, dtype) for values, dtype in gradients), None, None, None)


def _scaled(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (values.float() * scale).to(dtype)
