"""The ranking model's inputs: shapes, masks and what stands in for the unknown."""

from __future__ import annotations

import numpy as np

from vireo.server.features.model_inputs import (
    RANKER_HISTORY,
    RETRIEVAL_FEATURES,
    VideoTable,
    like_rate,
    ranking_inputs,
    retrieval_features,
    video_features,
    viewer_features,
)
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.signals import SCORES, SOURCES

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
FEATURES = np.arange(16, dtype=np.float32).reshape(4, 4)
TABLE = VideoTable(
    vectors=VECTORS,
    features=FEATURES,
    content=np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 0]], np.float32),
    creators=np.full(4, -1),
)


def inputs(history: list[int], candidates: list[int]) -> dict[str, np.ndarray]:
    count = len(candidates)
    scores = {score.name: np.zeros(count, np.float32) for score in SCORES}
    retrieval = retrieval_features(scores, np.full(count, 2, np.uint32))
    return ranking_inputs(
        ViewerFeatures(),
        np.array(history, np.int64),
        np.array(candidates, np.int64),
        retrieval,
        TABLE,
        {},
    )


def test_source_bits_become_columns() -> None:
    bits = {source.name: source.bit for source in SOURCES}
    masks = np.array([*bits.values(), sum(bits.values())], np.uint32)
    zeros = np.zeros(len(masks), np.float32)
    columns = retrieval_features({score.name: zeros for score in SCORES}, masks)
    for place, source in enumerate(bits):
        column = columns[:, RETRIEVAL_FEATURES.index(f"from_{source}")]
        np.testing.assert_array_equal(np.flatnonzero(column), [place, len(bits)])


def test_scores_come_in_the_declared_order() -> None:
    values = {
        score.name: np.full(1, place, np.float32) for place, score in reversed([*enumerate(SCORES)])
    }
    columns = retrieval_features(values, np.zeros(1, np.uint32))
    np.testing.assert_array_equal(columns[0, : len(SCORES)], range(len(SCORES)))


def test_the_match_is_that_of_the_content() -> None:
    batch = inputs([0], [0, 1, 2, 3])
    np.testing.assert_allclose(batch["match_features"][0, :, 0], [1, 0, 0.6, 0])


def test_candidates_and_history_are_gathered_from_the_table() -> None:
    batch = inputs([3, 1], [2, 0])
    np.testing.assert_array_equal(batch["candidate_vectors"][0], VECTORS[[2, 0]])
    np.testing.assert_array_equal(batch["candidate_features"][0], FEATURES[[2, 0]])
    np.testing.assert_array_equal(batch["history_vectors"][0], VECTORS[[3, 1]])
    np.testing.assert_array_equal(batch["history_lengths"], [2])


def test_an_empty_history_is_one_zero_row_of_length_zero() -> None:
    batch = inputs([], [1])
    np.testing.assert_array_equal(batch["history_vectors"], np.zeros((1, 1, 3), np.float32))
    np.testing.assert_array_equal(batch["history_lengths"], [0])


def test_only_recent_history_is_attended_to() -> None:
    batch = inputs([0] * 5 + [3] * RANKER_HISTORY, [1])
    assert batch["history_vectors"].shape == (1, RANKER_HISTORY, 3)
    np.testing.assert_array_equal(batch["history_vectors"][0, 0], VECTORS[3])


def test_like_rates_of_the_unknown_are_the_prior_and_few_watches_move_them_little() -> None:
    np.testing.assert_allclose(like_rate([0, 1, 100], [0, 1, 100]), [0.5, 3.5 / 6, 102.5 / 105])
    np.testing.assert_allclose(viewer_features(ViewerFeatures()), [0.0, 0.5])


def test_video_features_are_float32_in_the_declared_order() -> None:
    row = video_features([9], [4.0], [0.25], [0])
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, [[np.log(10), np.log(5), 0.25, 0.0]], rtol=1e-6)
