"""Training batches: windows of viewers' watches, encoded as serving encodes a history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.features.tower_inputs import gap_buckets
from training.retrieval.data import RetrievalData

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WindowBatch:
    """Windows of w videos as (history of w - 1, what is watched at each of w states)."""

    history: Int64Array
    """Row + 1 of each video, 0 for padding, int64[b, l]."""
    gaps: Int64Array
    """As `gap_buckets` of the window's times, int64[b, l]."""
    attributes: Int64Array
    """int64[b, ATTRIBUTE_LIMIT]."""
    targets: Int64Array
    """Row of the video watched next at states 0..l, -1 for padding, int64[b, l + 1]."""


class Windows:
    """Cuts each epoch's windows and batches from the data."""

    def __init__(self, data: RetrievalData, history_limit: int, batch_tokens: int) -> None:
        """Takes the longest history in videos and the most positions in a batch."""
        self._data = data
        self._size = history_limit + 1
        self._batch_tokens = batch_tokens
        self._attributes = data.attributes()
        # A window's gaps are those of the whole sequence but for its first watch: the
        # buckets depend on consecutive times alone.
        self._gaps = gap_buckets(data.times)

    def batches(self, seed: int, epoch: int) -> list[Int64Array]:
        """Batches of one epoch, each int64[b, 3] of (viewer, first watch, end).

        Each watch is the target of one position. Longer sequences are cut at random offsets.
        The same seed and epoch give the same batches.
        """
        rng = np.random.default_rng([seed, epoch])
        windows = self._cut(rng)
        windows = windows[rng.permutation(len(windows))]
        lengths = windows[:, 2] - windows[:, 1]
        order = np.argsort(-lengths, kind="stable")
        batches = list(self._fill(windows[order], lengths[order]))
        return [batches[index] for index in rng.permutation(len(batches))]

    def _cut(self, rng: np.random.Generator) -> Int64Array:
        counts = np.diff(self._data.offsets)
        shift = np.where(counts > self._size, rng.integers(0, self._size, len(counts)), 0)
        pieces = -(-(counts + shift) // self._size)
        viewers = np.repeat(np.arange(len(counts)), pieces)
        piece = np.arange(len(viewers)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.maximum(piece * self._size - shift[viewers], 0)
        stops = np.minimum((piece + 1) * self._size - shift[viewers], counts[viewers])
        base = self._data.offsets[viewers]
        return np.stack([viewers, base + starts, base + stops], axis=1)

    def _fill(self, windows: Int64Array, lengths: Int64Array) -> Iterator[Int64Array]:
        start = 0
        while start < len(windows):
            stop = start + max(1, self._batch_tokens // int(lengths[start]))
            yield windows[start:stop]
            start = stop

    def encode(self, windows: Int64Array) -> WindowBatch:
        """The arrays of one batch."""
        viewers, starts, stops = windows.T
        places = starts[:, None] + np.arange((stops - starts).max())
        inside = places < stops[:, None]
        places = np.where(inside, places, 0)
        targets = np.where(inside, self._data.rows[places], -1)
        read = inside[:, 1:]
        gaps = np.where(read, self._gaps[places[:, :-1]], 0)
        gaps[:, :1] = 0
        return WindowBatch(
            history=np.where(read, targets[:, :-1] + 1, 0),
            gaps=gaps,
            attributes=self._attributes[viewers],
            targets=targets,
        )
