"""The inputs of the viewer tower, and of the ranker for a list of candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vireo.server import signals
from vireo.server.arrays import Float32Array, Float64Array, Int64Array
from vireo.server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from vireo.server.features.context import NAMES, ContextIds, context_input, language_match
from vireo.server.features.history_scores import (
    CO_WATCH_HALF_LIFE,
    CO_WATCH_HISTORY,
    CONTENT_HALF_LIFE,
    CONTENT_HISTORY,
    content_match,
)
from vireo.server.features.keys import VideoRows
from vireo.server.features.looked_up import Column, looked_up
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


RANKER_HISTORY = 50
"""Number of last watched videos that the ranking model attends to."""
VIDEO_FEATURES = ("log_watch_count", "log_recent_watch_count", "like_rate", "log_age_days")
"""Columns of a release's video feature table, in order."""
_BY_NUMBER = sorted(signals.SOURCES, key=lambda source: source.number)
RETRIEVAL_FEATURES = (
    *(score.name for score in signals.SCORES),
    *(f"from_{source.name}" for source in _BY_NUMBER),
)
"""Columns of the retrieval features, in order: each score, then for each source whether it
proposed the candidate, 0 or 1."""
MATCH_FEATURES = ("content_match",)
"""Columns of how a candidate matches the history, apart from retrieval, in order."""
LANGUAGE_MATCH = "language_match"
"""A further one, of releases that read the request's language and know those of videos: 1 if the
candidate is in it, -1 if it is in another, 0 if one of them isn't known."""
VIEWER_FEATURES = ("log_watch_count", "like_rate")
"""Columns of the viewer's dense features, in order."""

_NUMBERS = np.array([source.number for source in _BY_NUMBER])
_FLAGS = (np.arange(2 << _NUMBERS.max())[:, None] >> _NUMBERS & 1).astype(np.float32)
"""The flags of each mask in the order of RETRIEVAL_FEATURES, float32[masks, sources]."""

LIKE_PRIOR_COUNT = 5.0
"""Weight in watches of the prior in every like rate."""
LIKE_PRIOR = 0.5
"""Like rate of an unknown viewer or video."""


@dataclass(frozen=True)
class VideoTable:
    """What a release knows of each video, by row."""

    vectors: Column
    """Video tower output, float32[n, d] or float16[n, d]."""
    features: Column
    """VIDEO_FEATURES, float32[n, f]."""
    content: Column
    """The video tower's content part at length 1, or 0 if nothing is known, float32[n, c] or
    float16[n, c]."""
    creators: Column
    """Key of each video's creator, -1 if unknown, int64[n]."""
    languages: Column | None = None
    """`language_id` of each video, int16[n]; None if the ranker doesn't read LANGUAGE_MATCH."""


def like_rate(likes: npt.ArrayLike, watches: npt.ArrayLike) -> Float64Array:
    """Return the share of watches that were liked, shrunk towards LIKE_PRIOR if there are few."""
    likes, watches = np.asarray(likes, np.float64), np.asarray(watches, np.float64)
    return (likes + LIKE_PRIOR * LIKE_PRIOR_COUNT) / (watches + LIKE_PRIOR_COUNT)


def video_features(
    watch_count: npt.ArrayLike,
    recent_watch_count: npt.ArrayLike,
    rate: npt.ArrayLike,
    age_days: npt.ArrayLike,
) -> Float32Array:
    """Return VIDEO_FEATURES from a video's statistics, float32[n, f]."""
    columns = [np.log1p(watch_count), np.log1p(recent_watch_count), rate, np.log1p(age_days)]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=-1)


def viewer_features(viewer: ViewerFeatures) -> Float32Array:
    """Return VIEWER_FEATURES of one viewer, float32[v]."""
    rate = like_rate(viewer.like_count, viewer.watch_count)
    return np.array([math.log1p(viewer.watch_count), rate], np.float32)


def retrieval_features(
    scores: Mapping[str, Float32Array], source_masks: npt.NDArray[np.uint32]
) -> Float32Array:
    """Return RETRIEVAL_FEATURES of n candidates, float32[n, r].

    Args:
        scores: each of `signals.SCORES` by name, float32[n].
        source_masks: bit s is set if the source of number s proposed the candidate, uint32[n].
    """
    features = np.empty((len(source_masks), len(RETRIEVAL_FEATURES)), np.float32)
    for place, score in enumerate(signals.SCORES):
        features[:, place] = scores[score.name]
    # Bits of sources that only newer builds know are left out.
    features[:, len(signals.SCORES) :] = _FLAGS.take(source_masks & len(_FLAGS) - 1, axis=0)
    return features


def ranking_inputs(
    viewer: ViewerFeatures,
    history_rows: Int64Array,
    candidate_rows: Int64Array,
    retrieval: Float32Array,
    table: VideoTable,
    vocabulary: Mapping[str, int],
    context: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Return the ranking model's inputs for one viewer (b = 1) and n known candidates.

    Args:
        viewer: the viewer.
        history_rows: rows of the known videos of the history, oldest first, int64[h].
        candidate_rows: rows of the candidates, int64[n], all >= 0.
        retrieval: RETRIEVAL_FEATURES of the candidates, float32[n, r].
        table: the release's video table.
        vocabulary: attribute text to id.
        context: names of the context features that the model reads.

    Returns:
        `candidate_vectors` float32[1, n, d], `candidate_features` float32[1, n, f],
        `retrieval_features` float32[1, n, r], `match_features` float32[1, n, m],
        `history_vectors` float32[1, h, d] (the last RANKER_HISTORY, oldest first; one zero row
        for an empty history),
        `history_lengths` int64[1], `viewer_features` float32[1, v], `attributes` int64[1, a]; and
        for a model that reads the context, `context` int64[1, c], the id of each of its features.
    """
    recent = history_rows[-RANKER_HISTORY:]
    if len(recent):
        history = looked_up(table.vectors, recent)
    else:
        history = np.zeros((1, table.vectors.shape[1]), np.float32)
    inputs = {
        "candidate_vectors": looked_up(table.vectors, candidate_rows)[None],
        "candidate_features": table.features.take(candidate_rows, axis=0)[None],
        "retrieval_features": retrieval[None],
        "match_features": match_features(viewer.context, history_rows, candidate_rows, table)[None],
        "history_vectors": history[None],
        "history_lengths": np.array([len(recent)], np.int64),
        "viewer_features": viewer_features(viewer)[None],
        "attributes": attribute_ids(viewer.attributes, vocabulary)[None],
    }
    if context:
        inputs["context"] = context_input(viewer.context, context)[None]
    return inputs


def match_features(
    context: ContextIds, history_rows: Int64Array, candidate_rows: Int64Array, table: VideoTable
) -> Float32Array:
    """Return MATCH_FEATURES of n candidates, and LANGUAGE_MATCH if the table has languages.

    Returns:
        float32[n, m].
    """
    content = content_match(history_rows, candidate_rows, table.content)
    if table.languages is None:
        return content[:, None]
    language = context[NAMES.index("language")]
    return np.stack(
        [content, language_match(language, table.languages.take(candidate_rows, axis=0))], 1
    )


def feature_constants() -> dict[str, float]:
    """Return the numbers with which this build computes features, by name.

    A model trained with others would read values that it has never seen, though every name and
    shape fits.
    """
    return {
        "activity.history_limit": HISTORY_LIMIT,
        "activity.watched_limit": WATCHED_LIMIT,
        "attributes.limit": ATTRIBUTE_LIMIT,
        "co_watch.half_life": CO_WATCH_HALF_LIFE,
        "co_watch.history": CO_WATCH_HISTORY,
        "content_match.half_life": CONTENT_HALF_LIFE,
        "content_match.history": CONTENT_HISTORY,
        "gaps.buckets": GAP_BUCKETS,
        "like_rate.prior": LIKE_PRIOR,
        "like_rate.prior_count": LIKE_PRIOR_COUNT,
        "ranker.history": RANKER_HISTORY,
    }
