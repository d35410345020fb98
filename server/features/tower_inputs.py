"""The viewer tower's inputs: history rows, time gaps and attributes, as training feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from server.arrays import Int64Array
from server.features.video_rows import VideoRows
from server.features.viewer import ViewerFeatures

ATTRIBUTE_LIMIT = 16
"""Maximum profile attributes that a model reads; further ones are ignored."""
GAP_BUCKETS = 32
"""Buckets of log2 seconds between consecutive watches; 0 is the first watch or padding."""


def gap_buckets(times: Int64Array) -> Int64Array:
    """Return the bucket of the time since the watch before, int64[n] in [0, GAP_BUCKETS).

    0 for the first watch; else 1 + floor(log2(1 + seconds)), negative gaps counting as 0.
    """
    buckets = np.zeros(len(times), np.int64)
    if len(times) > 1:
        gaps = np.maximum(np.diff(times), 0)
        # As floats: 1 + the maximum of int64 would overflow.
        buckets[1:] = 1 + np.log2(1.0 + gaps).astype(np.int64)
    return np.minimum(buckets, GAP_BUCKETS - 1)


def attribute_ids(attributes: Sequence[str], vocabulary: Mapping[str, int]) -> Int64Array:
    """Return the ids of the known attributes, from 1, padded with 0, int64[ATTRIBUTE_LIMIT]."""
    known = [vocabulary[text] for text in attributes if text in vocabulary][:ATTRIBUTE_LIMIT]
    ids = np.zeros(ATTRIBUTE_LIMIT, np.int64)
    ids[: len(known)] = known
    return ids


def tower_inputs(
    viewers: Sequence[ViewerFeatures],
    rows: VideoRows,
    vocabulary: Mapping[str, int],
    history_limit: int,
) -> dict[str, Int64Array]:
    """Return a batch of the viewer tower's inputs.

    Videos that the release doesn't know are left out of the history. Histories are
    left-aligned and padded on the right to the longest of the batch (at least 1).

    Returns:
        `history` int64[b, l]: row + 1 of each video, 0 for padding; `gaps` int64[b, l]:
        see `gap_buckets`; `asked_gap` int64[b]: bucket of the time from the last of these videos
        to the request, 0 only without a history; `lengths` int64[b]; `attributes`
        int64[b, ATTRIBUTE_LIMIT].
    """
    histories: list[Int64Array] = []
    gaps: list[Int64Array] = []
    asked_gap = np.zeros(len(viewers), np.int64)
    for index, viewer in enumerate(viewers):
        found = rows.find(viewer.history_keys)
        known = found >= 0
        histories.append(found[known][-history_limit:] + 1)
        times = viewer.history_times[known][-history_limit:]
        buckets = gap_buckets(np.append(times, viewer.asked_at))
        gaps.append(buckets[:-1])
        asked_gap[index] = buckets[-1]
    lengths = np.array([len(history) for history in histories], np.int64)
    width = max(1, int(lengths.max(initial=0)))
    history = np.zeros((len(viewers), width), np.int64)
    gap = np.zeros((len(viewers), width), np.int64)
    for index, length in enumerate(lengths):
        history[index, :length] = histories[index]
        gap[index, :length] = gaps[index]
    attributes = [attribute_ids(viewer.attributes, vocabulary) for viewer in viewers]
    return {
        "history": history,
        "gaps": gap,
        "asked_gap": asked_gap,
        "lengths": lengths,
        "attributes": np.stack(attributes)
        if attributes
        else np.zeros((0, ATTRIBUTE_LIMIT), np.int64),
    }
