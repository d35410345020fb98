"""The models' inputs: what a history turns into, shapes, and what stands in for the unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vireo.server.features.keys import VideoRows
from vireo.server.features.model_inputs import (
    ATTRIBUTE_LIMIT,
    GAP_BUCKETS,
    RANKER_HISTORY,
    RETRIEVAL_FEATURES,
    VideoTable,
    gap_buckets,
    like_rate,
    ranking_inputs,
    retrieval_features,
    tower_inputs,
    video_features,
    viewer_features,
)
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.signals import SCORES, SOURCES

KEYS = np.array([50, -7, 900], np.int64)


def viewer(keys: list[int], times: list[int], *attributes: str) -> ViewerFeatures:
    return ViewerFeatures(
        history_keys=np.array(keys, np.int64),
        history_times=np.array(times, np.int64),
        attributes=attributes,
    )


def test_gaps_fall_in_log2_buckets_and_never_leave_the_table() -> None:
    times = np.array([0, 0, 1, 4, 4 + 2**40, 3], np.int64)
    np.testing.assert_array_equal(gap_buckets(times), [0, 1, 2, 3, GAP_BUCKETS - 1, 1])
    assert gap_buckets(times[:0]).shape == (0,)
    longest = np.array([0, np.iinfo(np.int64).max])
    np.testing.assert_array_equal(gap_buckets(longest), [0, GAP_BUCKETS - 1])


def test_unknown_videos_are_left_out_with_their_times() -> None:
    batch = tower_inputs([viewer([50, 3, 900], [10, 11, 17])], VideoRows(KEYS), {}, 200)
    np.testing.assert_array_equal(batch["history"], [[1, 3]])
    np.testing.assert_array_equal(batch["gaps"], [[0, 4]])  # 7 s: 1 + floor(log2(8))
    np.testing.assert_array_equal(batch["lengths"], [2])


def test_only_the_last_videos_are_read() -> None:
    batch = tower_inputs([viewer([50, -7, 900], [1, 2, 3])], VideoRows(KEYS), {}, 2)
    np.testing.assert_array_equal(batch["history"], [[2, 3]])


def test_a_batch_is_padded_on_the_right_and_an_empty_history_has_width_one() -> None:
    batch = tower_inputs([viewer([], []), viewer([-7, 50], [1, 2])], VideoRows(KEYS), {}, 9)
    np.testing.assert_array_equal(batch["history"], [[0, 0], [2, 1]])
    np.testing.assert_array_equal(batch["lengths"], [0, 2])
    assert tower_inputs([viewer([], [])], VideoRows(KEYS), {}, 9)["history"].shape == (1, 1)


@pytest.mark.parametrize(
    ("times", "asked_at", "bucket"),
    [
        ([10, 11], 18, 4),  # 7 s: 1 + floor(log2(8))
        ([10, 11], 11, 1),
        ([10, 11], 5, 1),  # a clock that is behind
        ([10, 11], np.iinfo(np.int64).max, GAP_BUCKETS - 1),
        ([10, 11], 0, 1),  # nobody knows the moment: 0 is for no history, as in training
        ([], 18, 0),
    ],
)
def test_the_moment_asked_is_so_far_from_the_last_watch(
    times: list[int], asked_at: int, bucket: int
) -> None:
    asking = replace(viewer([50, -7][: len(times)], times), asked_at=asked_at)
    batch = tower_inputs([asking, viewer([], [])], VideoRows(KEYS), {}, 9)
    np.testing.assert_array_equal(batch["asked_gap"], [bucket, 0])


def test_the_moment_asked_is_measured_from_the_last_video_that_the_release_has() -> None:
    asking = replace(viewer([50, 3], [10, 17]), asked_at=17)
    assert tower_inputs([asking], VideoRows(KEYS), {}, 9)["asked_gap"] == [4]


def test_attributes_that_the_release_does_not_know_are_ignored() -> None:
    batch = tower_inputs([viewer([], [], "a=1", "b=2", "c=3")], VideoRows(KEYS), {"c=3": 4}, 9)
    expected = np.zeros((1, ATTRIBUTE_LIMIT), np.int64)
    expected[0, 0] = 4
    np.testing.assert_array_equal(batch["attributes"], expected)


def test_the_playing_video_becomes_the_last_one_watched() -> None:
    playing = viewer([50], [10]).playing(900)
    np.testing.assert_array_equal(playing.history_keys, [50, 900])
    np.testing.assert_array_equal(playing.history_times, [10, 10])
    np.testing.assert_array_equal(viewer([], []).playing(900).history_keys, [900])


def test_a_play_that_the_history_has_already_is_not_watched_again() -> None:
    asking = replace(viewer([-7, 50], [10, 20]), asked_at=27)
    playing = asking.playing(50)
    assert 50 in playing.watched_keys
    batch, recorded = (tower_inputs([each], VideoRows(KEYS), {}, 9) for each in (playing, asking))
    for name in recorded:
        np.testing.assert_array_equal(batch[name], recorded[name])
    np.testing.assert_array_equal(asking.playing(-7).history_keys, [-7, 50, -7])


def test_the_playing_video_is_watched_at_the_moment_asked() -> None:
    playing = replace(viewer([50], [10]), asked_at=17).playing(900)
    batch = tower_inputs([playing], VideoRows(KEYS), {}, 9)
    np.testing.assert_array_equal(batch["gaps"], [[0, 4]])
    np.testing.assert_array_equal(batch["asked_gap"], [1])


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
