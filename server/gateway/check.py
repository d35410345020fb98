"""Checks pods' responses: garbage must not reach a caller."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain

from vireo.server.columns import SCORE_COLUMNS, TASK_COLUMNS, check_columns, check_rule_columns
from vireo.server.features.keys import video_key
from vireo.server.releases.manifest import MAX_CANDIDATES
from vireo.server.signals import LIVE_SOURCES, ORDERING, TASKS
from vireo.v1 import candidate_pb2, ranking_pb2

_OF_THE_LOG = sum(source.bit for source in LIVE_SOURCES)
"""Mask of the sources that propose such videos."""


class BadAnswerError(Exception):
    """A response breaks the contract; the message says how."""


def check_candidates(
    answer: candidate_pb2.RetrieveCandidatesResponse,
    request: candidate_pb2.RetrieveCandidatesRequest,
) -> None:
    """Raise BadAnswerError or BadColumnError if retrieved candidates can't be used."""
    count = len(answer.keys)
    named = min(request.page_size, count)
    allowed = MAX_CANDIDATES if request.count_of_release else request.count
    if count > allowed:
        raise BadAnswerError(f"{count} candidates, but {allowed} were requested")
    if not answer.release_id:
        raise BadAnswerError("release_id is missing")
    if not answer.filtered and (request.HasField("filter") or request.rules.filters):
        raise BadAnswerError("the filter wasn't applied")
    if request.HasField("rules"):
        check_rule_columns(answer.rules, request.rules, count)
    names = check_columns(answer.scores, count, SCORE_COLUMNS)
    check_columns(answer.explained.scores, 1, SCORE_COLUMNS)
    _check_length("source_masks", answer.source_masks, count)
    _check_length("ids", answer.ids, named)
    if not count:
        return
    keys = answer.keys[:]
    distinct = {*keys}
    if ORDERING not in names:
        raise BadAnswerError(f"{ORDERING} is missing")
    if [*map(video_key, answer.ids)] != keys[:named]:
        raise BadAnswerError("an id isn't that of its key")
    if len(distinct) < count:
        raise BadAnswerError("a key occurs twice")
    if not distinct.isdisjoint(blocked_keys(request)):
        raise BadAnswerError("a watched, hidden, excluded or playing video is among the candidates")


def check_ranked(
    answer: ranking_pb2.RankCandidatesResponse,
    request: ranking_pb2.RankCandidatesRequest,
) -> None:
    """Raise BadAnswerError or BadColumnError if ranked candidates can't be used."""
    candidates = dict(zip(request.keys[:], request.source_masks[:], strict=True))
    count = min(request.page_size, len(candidates))
    keys = answer.keys[:]
    shown = any(each.shown for each in request.rule_columns.labels)
    if request.rules.caps and (keys or shown) and len(keys) < count:
        count = len(keys)  # what caps left; nothing, perhaps, after the pages before
    _check_length("keys", keys, count)
    if not answer.release_id:
        raise BadAnswerError("release_id is missing")
    _check_length("scores", answer.scores, count)
    if not math.isfinite(sum(answer.scores)):
        raise BadAnswerError("scores has a value that isn't finite")
    if TASKS[0].name not in check_columns(answer.task_scores, count, TASK_COLUMNS):
        # Every build has it; pods of earlier ones may lack others.
        raise BadAnswerError(f"{TASKS[0].name} is missing")
    check_columns(answer.explained.task_scores, 1, TASK_COLUMNS)
    if not math.isfinite(answer.explained.score):
        raise BadAnswerError("the explained video's score isn't finite")
    _check_length("capped", answer.capped, len(request.rules.caps) if answer.capped else 0)
    _check_length("source_masks", answer.source_masks, count)
    _check_length("ids", answer.ids, count)
    _check_length("titles", answer.titles, count if request.titles else 0)
    if not candidates.keys() >= set(keys):
        raise BadAnswerError("a key was not among the candidates")
    if len(set(keys)) < count:
        raise BadAnswerError("a key occurs twice")
    if [candidates[key] for key in keys] != answer.source_masks:
        raise BadAnswerError("source_masks differ from those of the candidates")
    if [*map(video_key, answer.ids)] != keys:
        _check_names(answer, request, keys)


def _check_names(
    answer: ranking_pb2.RankCandidatesResponse,
    request: ranking_pb2.RankCandidatesRequest,
    keys: Sequence[int],
) -> None:
    """Raise BadAnswerError unless the ids are those of their keys, or missing for a reason."""
    unnamed = answer.ids[:].count("")
    allowed = answer.unknown_candidates
    if answer.release_id == request.release_id:
        # A pod may hear a moment later than others of a video that the release doesn't have.
        allowed = sum(mask & _OF_THE_LOG > 0 for mask in request.source_masks)
    if unnamed > allowed:
        raise BadAnswerError("a video that the release knows has no id")
    if any(name and video_key(name) != key for name, key in zip(answer.ids, keys, strict=True)):
        raise BadAnswerError("an id isn't that of its key")


def blocked_keys(request: candidate_pb2.RetrieveCandidatesRequest) -> Iterable[int]:
    """Return the videos that a slate must not have: watched, hidden, excluded and playing ones."""
    playing = (request.seed_key,) if request.HasField("seed_key") else ()
    viewer = request.viewer
    return chain(viewer.watched_keys, viewer.hidden_keys, request.excluded_keys, playing)


def _check_length(name: str, column: Sequence[object], count: int) -> None:
    if len(column) != count:
        raise BadAnswerError(f"{name} has {len(column)} values instead of {count}")
