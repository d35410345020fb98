"""Training batches: windows of viewers' watches, encoded as histories are in serving."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vireo.server.arrays import Int64Array
from vireo.server.features.model_inputs import gap_buckets
from vireo.training.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData, Watches


class WindowBatch(NamedTuple):
    """Windows of w videos, each as a history of w - 1 videos and the targets of w states."""

    history: Tensor
    """Row + 1 of each video, 0 for padding, int64[b, l]."""
    gaps: Tensor
    """`gap_buckets` of the window's times, the targets' included: the bucket at state i is that of
    the time from the last watch read to the target, int64[b, l + 1]."""
    attributes: Tensor
    """int64[b, ATTRIBUTE_LIMIT]."""
    targets: Tensor
    """Row of the video watched next at states 0..l, -1 for padding, int64[b, l + 1]."""
    context: Tensor
    """Ids of the context in which it was watched, int64[b, l + 1, c]; 0 for padding."""
    moments: Tensor
    """When it was watched, Unix seconds, int64[b, l + 1]; undefined for padding."""

    @property
    def tokens(self) -> int:
        """Number of positions with a target."""
        return int((self.targets >= 0).sum())


class Windows:
    """Cuts windows and batches from the watches of some viewers."""

    def __init__(
        self, watches: Watches, attributes: Int64Array, history_limit: int, batch_tokens: int
    ) -> None:
        """Compute the gap buckets of `watches`, 8 bytes each; attributes are int64[viewers, a]."""
        self.watches = watches
        self._size = history_limit + 1
        self._batch_tokens = batch_tokens
        self._attributes = attributes
        # A window's gaps are those of the whole sequence, except at its first watch: buckets
        # depend on consecutive times only.
        self._gaps = gap_buckets(watches.times)

    def batches(self, rng: np.random.Generator) -> list[Int64Array]:
        """Return shuffled batches of windows, each int64[b, 3] of (viewer, first watch, end).

        Each watch is the target of one position. Sequences longer than a window are cut at random
        offsets.
        """
        windows = self._cut(rng)
        windows = windows[rng.permutation(len(windows))]
        lengths = windows[:, 2] - windows[:, 1]
        order = np.argsort(-lengths, kind="stable")
        batches = list(self._fill(windows[order], lengths[order]))
        return [batches[index] for index in rng.permutation(len(batches))]

    def _cut(self, rng: np.random.Generator) -> Int64Array:
        counts = np.diff(self.watches.offsets)
        shift = np.where(counts > self._size, rng.integers(0, self._size, len(counts)), 0)
        pieces = -(-(counts + shift) // self._size)
        viewers = np.repeat(np.arange(len(counts)), pieces)
        piece = np.arange(len(viewers)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.maximum(piece * self._size - shift[viewers], 0)
        stops = np.minimum((piece + 1) * self._size - shift[viewers], counts[viewers])
        base = self.watches.offsets[viewers]
        return np.stack([viewers, base + starts, base + stops], axis=1)

    def _fill(self, windows: Int64Array, lengths: Int64Array) -> Iterator[Int64Array]:
        start = 0
        while start < len(windows):
            stop = start + max(1, self._batch_tokens // int(lengths[start]))
            yield windows[start:stop]
            start = stop

    def encode(self, windows: Int64Array) -> WindowBatch:
        """Return the tensors of one batch."""
        viewers, starts, stops = windows.T
        places = starts[:, None] + np.arange((stops - starts).max())
        inside = places < stops[:, None]
        places = np.where(inside, places, 0)
        targets = np.where(inside, self.watches.rows[places], -1)
        gaps = np.where(inside, self._gaps[places], 0)
        gaps[:, 0] = 0
        arrays = (
            np.where(inside[:, 1:], targets[:, :-1] + 1, 0),
            gaps,
            self._attributes[viewers],
            targets,
            np.where(inside[..., None], self.watches.context[places].astype(np.int64), 0),
            self.watches.times[places],
        )
        return WindowBatch(*map(torch.from_numpy, arrays))


def epoch_batches(
    data: RetrievalData, config: RetrievalConfig, epoch: int
) -> Iterator[WindowBatch]:
    """Yield the batches of one epoch, which are determined by seed and epoch.

    Groups of viewers are taken in random order until they have `config.shuffle_watches`; their
    windows are shuffled and batched before those of the next groups.
    """
    rng = np.random.default_rng([config.seed, epoch])
    sizes = [int(np.ptp(data.train.offsets[[each.start, each.stop]])) for each in data.groups]
    held: list[int] = []
    order = rng.permutation(len(data.groups)).tolist()
    for place, group in enumerate(order, start=1):
        held.append(group)
        if sum(sizes[one] for one in held) < config.shuffle_watches and place < len(order):
            continue
        viewers = np.concatenate([np.array(data.groups[one]) for one in held])
        watches, attributes = data.train.take(viewers), data.attributes[viewers]
        windows = Windows(watches, attributes, config.history_limit, config.batch_tokens)
        for chosen in windows.batches(rng):
            yield windows.encode(chosen)
        held = []
