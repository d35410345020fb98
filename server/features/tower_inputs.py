"""The viewer tower's inputs: history rows, time gaps and attributes, as training feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vireo.server.arrays import Int64Array
from vireo.server.features.context import context_input
from vireo.server.features.video_rows import VideoRows
from vireo.server.features.viewer import ViewerFeatures

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
        gaps = np.maximum(times[1:] - times[:-1], 0)
        # As floats: 1 + the maximum of int64 would overflow.
        buckets[1:] = 1 + np.log2(1.0 + gaps).astype(np.int64)
    return np.minimum(buckets, GAP_BUCKETS - 1)


def attribute_ids(attributes: Sequence[str], vocabulary: Mapping[str, int]) -> Int64Array:
    """Return the ids of the known attributes, from 1, padded with 0, int64[ATTRIBUTE_LIMIT]."""
    known = [vocabulary[text] for text in attributes if text in vocabulary][:ATTRIBUTE_LIMIT]
    ids = np.zeros(ATTRIBUTE_LIMIT, np.int64)
    ids[: len(known)] = known
    return ids


def viewer_inputs(
    viewer: ViewerFeatures,
    found: Int64Array,
    vocabulary: Mapping[str, int],
    history_limit: int,
    context: Sequence[str] = (),
) -> dict[str, Int64Array]:
    """Return the viewer tower's inputs for one viewer (b = 1); see `tower_inputs`.

    Args:
        viewer: the viewer.
        found: row of each video of the history, -1 for unknown ones, int64[h].
        vocabulary: attribute text to id.
        history_limit: number of last known videos that the tower reads.
        context: names of the context features that the tower reads.
    """
    known = (found >= 0).nonzero()[0][-history_limit:]
    length = len(known)
    history, times = np.zeros(max(1, length), np.int64), np.empty(length + 1, np.int64)
    history[:length] = found[known] + 1
    times[:length], times[length] = viewer.history_times[known], viewer.asked_at
    buckets = gap_buckets(times)
    inputs = {
        "history": history[None],
        "gaps": buckets[None, : len(history)],
        "asked_gap": buckets[-1:],
        "lengths": np.array([length], np.int64),
        "attributes": attribute_ids(viewer.attributes, vocabulary)[None],
    }
    if context:
        inputs["context"] = context_input(viewer.context, context)[None]
    return inputs


def tower_inputs(
    viewers: Sequence[ViewerFeatures],
    rows: VideoRows,
    vocabulary: Mapping[str, int],
    history_limit: int,
    context: Sequence[str] = (),
) -> dict[str, Int64Array]:
    """Return a batch of the viewer tower's inputs, for at least one viewer.

    Videos that the release doesn't know are left out of the history. Histories are
    left-aligned and padded on the right to the longest of the batch (at least 1).

    Returns:
        `history` int64[b, l]: row + 1 of each video, 0 for padding; `gaps` int64[b, l]:
        see `gap_buckets`; `asked_gap` int64[b]: bucket of the time from the last of these videos
        to the request, 0 only without a history; `lengths` int64[b]; `attributes`
        int64[b, ATTRIBUTE_LIMIT]; and for a tower that reads the context, `context` int64[b, c],
        the id of each of its features.
    """
    each = [
        viewer_inputs(viewer, rows.find(viewer.history_keys), vocabulary, history_limit, context)
        for viewer in viewers
    ]
    width = max(inputs["history"].shape[1] for inputs in each)
    for inputs in each:
        padding = ((0, 0), (0, width - inputs["history"].shape[1]))
        inputs |= {name: np.pad(inputs[name], padding) for name in ("history", "gaps")}
    return {name: np.concatenate([inputs[name] for inputs in each]) for name in each[0]}
