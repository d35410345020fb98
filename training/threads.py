"""How many of torch's threads a training uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Runs with `count` threads; with as many as torch chose where it is None.

    One is right for small tensors: a second gains little on idle cores, and on busy ones the
    two wait for each other at every operation, many times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
