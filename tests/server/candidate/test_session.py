"""The viewer's embedding with what the viewer came upon in this session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.builders.viewers import viewer_of_rows
from vireo.server.arrays import Float32Array
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease

VIDEOS = 40


def vector(
    release: CandidateRelease, viewer: ViewerFeatures, session: dict[int, float], **more: Any
) -> Float32Array:
    keys = np.array([release.keys[row] for row in session], np.int64)
    weights = np.array(list(session.values()), np.float32)
    query = CandidateQuery(viewer, 5, session_keys=keys, session_weights=weights, **more)
    return Retrieval.of(release, query).vector


def watched(release: CandidateRelease, *rows: int) -> Float32Array:
    return release.viewer_vector(viewer_of_rows(*rows))


def test_a_weight_of_one_counts_as_a_watch_and_none_as_nothing(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(3, 9)
    assert vector(release, viewer, {7: 1.0}) == pytest.approx(watched(release, 3, 9, 7), abs=1e-6)
    assert vector(release, viewer, {7: 0.0}) == pytest.approx(watched(release, 3, 9), abs=1e-6)


def test_weights_between_move_the_embedding_that_far(release: CandidateRelease) -> None:
    expected = (
        0.5 * watched(release, 3)
        + 0.25 * watched(release, 3, 7)
        + 0.25 * watched(release, 3, 5, 7, 8)
    )
    found = vector(release, viewer_of_rows(3), {5: 0.25, 7: 0.5, 8: 0.25})
    assert found == pytest.approx(expected, abs=1e-6)


def test_unknown_videos_and_those_in_the_history_change_nothing(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(3, 9)
    query = CandidateQuery(
        viewer,
        5,
        session_keys=np.array([12345, release.keys[3]], np.int64),
        session_weights=np.array([1.0, 1.0], np.float32),
    )
    assert Retrieval.of(release, query).vector == pytest.approx(watched(release, 3, 9), abs=1e-6)


def test_the_playing_video_stays_the_last_one(
    release: CandidateRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    usual = CandidateRelease.viewer_vector

    def listening(release: CandidateRelease, viewer: ViewerFeatures) -> Float32Array:
        asked.append(release.rows.find(viewer.history_keys).tolist())
        return usual(release, viewer)

    monkeypatch.setattr(CandidateRelease, "viewer_vector", listening)
    vector(release, viewer_of_rows(3), {7: 1.0}, seed_key=int(release.keys[20]))
    assert asked == [[3, 7, 20]]  # not without the session, which would weigh nothing


def test_session_videos_may_be_answers_and_are_used_once_each(release: CandidateRelease) -> None:
    viewer = replace(viewer_of_rows(3), asked_at=10)
    query = CandidateQuery(
        viewer,
        VIDEOS,
        session_keys=release.keys[[7, 8]],
        session_weights=np.array([1.0, 0.5], np.float32),
    )
    found = CandidatePipeline(release, fail_open=False).retrieve(query)
    assert sorted(found.rows.tolist()) == [row for row in range(VIDEOS) if row != 3]
