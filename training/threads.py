"""The number of torch threads that training uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vireo.server.cores import cores


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
