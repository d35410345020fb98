from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.retrieval.release import CandidateRelease, ViewerVectors


def tower_of_sums() -> Mock:
    """Return a tower whose vector is the sum of the history."""
    return Mock(side_effect=lambda inputs: np.array([inputs["history"].sum()], np.float32))


def inputs(*history: int, gap: int = 1, asked_gap: int = 1) -> dict[str, np.ndarray]:
    return {
        "history": np.array([history], np.int64),
        "gaps": np.full((1, len(history)), gap),
        "asked_gap": np.array([asked_gap]),
    }


@pytest.mark.parametrize(
    "changed",
    [inputs(1, 2, 3), inputs(2, 1), inputs(1, 2, gap=4), inputs(1, 2, asked_gap=4), inputs()],
)
def test_a_change_of_any_tower_input_changes_the_vector(changed: dict[str, np.ndarray]) -> None:
    vectors, tower = ViewerVectors(10), tower_of_sums()
    vectors.of(inputs(1, 2), tower)
    vectors.of(changed, tower)
    assert tower.call_count == 2


def test_the_least_recently_used_vector_is_evicted() -> None:
    vectors, tower = ViewerVectors(2), tower_of_sums()
    for viewer in (1, 2, 1, 3, 1):
        vectors.of(inputs(viewer), tower)
    assert tower.call_count == 3
    vectors.of(inputs(2), tower)
    assert tower.call_count == 4


def test_a_cache_of_size_0_keeps_nothing() -> None:
    vectors, tower = ViewerVectors(0), tower_of_sums()
    for _ in range(2):
        vectors.of(inputs(1), tower)
    assert tower.call_count == 2


def test_a_failed_run_is_not_kept() -> None:
    vectors = ViewerVectors(2)
    fails = Mock(side_effect=ValueError("no vector"))
    with pytest.raises(ValueError, match="no vector"):
        vectors.of(inputs(1), fails)
    assert vectors.of(inputs(1), tower_of_sums())[0] == 1


def test_a_release_answers_alike_with_kept_vectors(release: CandidateRelease) -> None:
    keeps = replace(release, viewers=ViewerVectors(5))
    viewer = ViewerFeatures(history_keys=release.keys[:4], history_times=np.arange(4) * 60)
    for _ in range(2):
        assert np.array_equal(keeps.viewer_vector(viewer), release.viewer_vector(viewer))
