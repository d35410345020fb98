"""Cross-entropy of states against many vectors, without the table of all logits.

Both losses are means over positions, so that their gradients are known as soon as a chunk's
softmax is: they are worked out in the forward pass, chunk by chunk, and a chunk's logits are
forgotten before the next. That halves the time of training on a CPU, where writing and reading
the logits rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512
"""Positions whose logits are held at once."""
HIDDEN = -1e4
"""Logit of what a position must not see: finite, so that bfloat16 stays sound."""


def cross_entropy(states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """Mean over positions of -log softmax(states @ vectors.T)[targets].

    Under autocast it multiplies in autocast's type, else in float32.

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
    """As `cross_entropy`, each position having its own vector and a sample that all share.

    Args:
        states: float[p, d].
        own: vector of each position's target, float[p, d].
        vectors: of the sample, float[m, d].
        log_expected: taken from the sample's logits, float32[m].
        hidden: (position, place in the sample) pairs that don't count, int64[h, 2], by
            position.
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
            # From here on the derivative of the loss by the logits.
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
