"""PyTorch on CPUs: modules of both models, the number of threads, and bfloat16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vireo.server.cores import cores


class ByteDropout(nn.Module):
    """Dropout with probability `p`, rounded to 1/256; scales the values that it keeps.

    One 64-bit draw decides eight values instead of one: masks cost a sixth of PyTorch's, which on a
    CPU take most of the time.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.threshold = min(round(256 * p), 255)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, float[...], with values dropped; `x` itself outside training."""
        if not self.training or not self.threshold:
            return x
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * (kept.to(x.dtype) * (256 / (256 - self.threshold)))


class ContextEmbeddings(nn.Module):
    """An embedding of each feature of the context; that of an unknown one is 0."""

    def __init__(self, sizes: Iterable[int], dimension: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Embedding(size, dimension, padding_idx=0) for size in sizes
        )
        for weight in self.parameters():
            nn.init.zeros_(weight)  # what training never sees adds nothing

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Return the embedding of each feature, float32[..., e], of int64[..., c]."""
        return [feature(ids[..., place]) for place, feature in enumerate(self.features)]


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run the block with `count` torch threads; None is one for each core that may be used.

    One is right for small tensors: a second gains little on idle cores, and on busy ones the
    two wait for each other at every operation, which is many times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bfloat16_is_fast() -> bool:
    """Return whether this processor multiplies bfloat16 natively; without, it is slower."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
