"""Checks pods' responses: garbage must not reach a caller."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2

from server.arrays import Int64Array
from server.columns import SCORE_COLUMNS, TASK_COLUMNS, BadColumnError, check_columns
from server.features.keys import video_key
from server.releases.manifest import MAX_CANDIDATES
from server.signals import ORDERING, TASKS, Column


class BadAnswerError(Exception):
    """A response breaks the contract; the message says how."""


def check_candidates(
    answer: candidate_pb2.RetrieveCandidatesResponse,
    request: candidate_pb2.RetrieveCandidatesRequest,
    blocked: Int64Array,
) -> None:
    """Check retrieved candidates.

    Args:
        answer: the response.
        request: the request.
        blocked: keys that must not be among them, int64[b].

    Raises:
        BadAnswerError: they can't be used.
    """
    count = len(answer.keys)
    allowed = MAX_CANDIDATES if request.count_of_release else request.count
    if count > allowed:
        raise BadAnswerError(f"{count} candidates, but {allowed} were requested")
    _check_release(answer.release_id)
    scores = _check_columns(answer.scores, count, SCORE_COLUMNS)
    _check_length("source_masks", answer.source_masks, count)
    _check_length("ids", answer.ids, min(request.page_size, count))
    if not count:
        return
    if ORDERING not in scores:
        raise BadAnswerError(f"{ORDERING} is missing")
    if [*map(video_key, answer.ids)] != answer.keys[: len(answer.ids)]:
        raise BadAnswerError("an id isn't that of its key")
    ascending = np.array(answer.keys, np.int64)
    ascending.sort()
    if (ascending[1:] == ascending[:-1]).any():
        raise BadAnswerError("a key occurs twice")
    # A tenth of the time of np.isin, which is slow for a long history.
    places = ascending.searchsorted(blocked)
    if (ascending.take(places, mode="clip") == blocked).any():
        raise BadAnswerError("a watched, excluded or playing video is among the candidates")


def check_ranked(
    answer: ranking_pb2.RankCandidatesResponse, request: ranking_pb2.RankCandidatesRequest
) -> None:
    """Check ranked candidates; raise BadAnswerError if they can't be used."""
    count = min(request.page_size, len(request.keys))
    _check_length("keys", answer.keys, count)
    _check_release(answer.release_id)
    _check_length("scores", answer.scores, count)
    if not all(map(math.isfinite, answer.scores)):
        raise BadAnswerError("scores has a value that isn't finite")
    tasks = _check_columns(answer.task_scores, count, TASK_COLUMNS)
    if TASKS[0].name not in tasks:  # which every build has; pods of earlier ones may lack others
        raise BadAnswerError(f"{TASKS[0].name} is missing")
    _check_length("source_masks", answer.source_masks, count)
    _check_length("ids", answer.ids, count)
    _check_length("titles", answer.titles, count if request.titles else 0)
    keys = np.array(answer.keys, np.int64)
    sent = np.array(request.keys, np.int64)
    places = (keys[:, None] == sent).argmax(1)  # a page is short
    if (sent[places] != keys).any():
        raise BadAnswerError("a key was not among the candidates")
    if len(set(places.tolist())) < count:
        raise BadAnswerError("a key occurs twice")
    masks = np.array(request.source_masks, np.uint32)
    if (masks[places] != np.array(answer.source_masks, np.uint32)).any():
        raise BadAnswerError("source_masks are not those that were sent")
    named = [(name, key) for name, key in zip(answer.ids, answer.keys, strict=True) if name]
    same_release = answer.release_id == request.release_id
    if count - len(named) > (0 if same_release else answer.unknown_candidates):
        raise BadAnswerError("a video that the release knows has no id")
    if any(video_key(name) != key for name, key in named):
        raise BadAnswerError("an id isn't that of its key")


def _check_release(release_id: str) -> None:
    if not release_id:
        raise BadAnswerError("release_id is missing")


def _check_length(name: str, column: Sequence[object], count: int) -> None:
    if len(column) != count:
        raise BadAnswerError(f"{name} has {len(column)} values instead of {count}")


def _check_columns(
    columns: Sequence[viewer_pb2.ScoreColumn], count: int, declared: Mapping[str, Column]
) -> Collection[str]:
    """Return the columns' names; those of later builds are passed on."""
    try:
        return check_columns(columns, count, declared).keys()
    except BadColumnError as error:
        raise BadAnswerError(str(error)) from error
