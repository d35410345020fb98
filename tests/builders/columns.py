"""Requests to ranking pods, and their columns of candidates' scores."""

from __future__ import annotations

from collections.abc import Iterable

from vireo.server.features.keys import video_key
from vireo.server.signals import SCORES
from vireo.v1 import ranking_pb2, viewer_pb2


def score_columns(values: Iterable[float]) -> list[viewer_pb2.ScoreColumn]:
    """Return every declared score, with the same values."""
    values = list(values)
    return [viewer_pb2.ScoreColumn(name=score.name, values=values) for score in SCORES]


def request_for_one_video() -> ranking_pb2.RankCandidatesRequest:
    """Return a valid request to rank one video for a viewer without features."""
    request = ranking_pb2.RankCandidatesRequest(
        keys=[video_key("video-1")],
        scores=score_columns([0]),
        source_masks=[2],
        page_size=1,
    )
    request.viewer.SetInParent()
    return request


def rank_request(*rows: int, **changes: object) -> ranking_pb2.RankCandidatesRequest:
    """Return a valid request to rank the videos of some rows, with fields changed."""
    request = request_for_one_video()
    request.MergeFrom(ranking_pb2.RankCandidatesRequest(viewer=viewer_pb2.ViewerFeatures()))
    request.keys[:] = [video_key(f"video-{row}") for row in rows]
    request.source_masks[:] = [2] * len(rows)
    del request.scores[:]
    request.scores.extend(score_columns([0.5] * len(rows)))
    request.page_size = 10
    request.MergeFrom(ranking_pb2.RankCandidatesRequest(**changes))  # type: ignore[arg-type]
    return request
