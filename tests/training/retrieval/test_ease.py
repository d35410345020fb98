from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from tests.training.retrieval.conftest import VIDEOS
from vireo.server.features.summed import summed
from vireo.training.retrieval.co_watch import co_watch_neighbours
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.ease import EASE_LAMBDA, closed_form, ease_table, ease_weights
from vireo.training.retrieval.local_ease import local_ease_table


def test_kept_are_the_weights_of_largest_absolute_value(ring: RetrievalData) -> None:
    whole = ease_weights(ring)

    rows, weights = ease_table(ring, k=4)

    assert rows.dtype == np.int32
    assert weights.dtype == np.float32
    assert rows.shape == weights.shape == (ring.video_count, 4)
    strongest = -np.sort(-np.abs(whole), axis=1)[:, :4]
    np.testing.assert_array_equal(np.abs(weights), strongest)
    np.testing.assert_array_equal(np.take_along_axis(whole, rows, 1), weights)
    assert (whole < 0).any(), "what is seldom watched together"


def test_the_weights_are_those_of_the_regression_of_each_video_on_the_others() -> None:
    sequences = {"1": ["a", "b"], "2": ["a", "b", "c"], "3": ["b", "c"], "4": ["c"]}
    data = RetrievalData.build(
        watches_frame(sequences, held_out=0), videos_frame(list("abc")), viewers_frame({})
    )
    watched = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]], float)
    for row in range(3):
        others = [place for place in range(3) if place != row]
        known = watched[:, others]
        ridge = known.T @ known + EASE_LAMBDA * np.eye(2)
        fitted = np.linalg.solve(ridge, known.T @ watched[:, row])
        assert ease_weights(data)[others, row] == pytest.approx(fitted, rel=1e-5)
    assert not ease_weights(data).diagonal().any()


def test_a_table_of_all_weights_scores_like_the_matrix(ring: RetrievalData) -> None:
    rows, weights = ease_table(ring, k=1000)
    watched = np.array([3])

    assert rows.shape == (ring.video_count, ring.video_count)
    found, scores = summed(rows[watched], weights[watched], ring.video_count)
    np.testing.assert_allclose(scores, ease_weights(ring)[3, found], atol=1e-7)


@pytest.mark.parametrize("limit", [VIDEOS - 1, 0])
def test_in_a_catalogue_over_the_limit_videos_are_regressed_on_some_others(
    ring: RetrievalData, limit: int
) -> None:
    expected = local_ease_table(ring, co_watch_neighbours(ring.video_count))
    for table, same in zip(ease_table(ring, limit=limit), expected, strict=True):
        np.testing.assert_array_equal(table, same)
    assert expected[1].any()


def test_the_fit_holds_one_matrix_and_is_as_good_as_in_double_precision() -> None:
    random = np.random.default_rng(0)
    videos = 1500
    popularity = 1 / np.arange(1, videos + 1)
    matrix = random.random((2000, videos)) < 40 * popularity / popularity.sum()
    watched = sparse.csr_array(matrix.astype(np.float32))  # type: ignore[no-untyped-call]

    tracemalloc.start()
    weights = closed_form(watched, EASE_LAMBDA)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    gram = matrix.T.astype(float) @ matrix + EASE_LAMBDA * np.eye(videos)
    inverse = np.linalg.inv(gram)
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert abs(expected).max() > 0.1
    assert peak < 4 * videos**2 * 2.5, "the matrix, and a band of a third of it while counting"


def test_validation_watches_are_not_fitted() -> None:
    sequences = {str(viewer): ["a", "b", "c"] for viewer in range(5)}
    data = RetrievalData.build(
        watches_frame(sequences, held_out=1), videos_frame(list("abc")), viewers_frame({})
    )
    weights = ease_weights(data)
    assert weights[0, 1] > 0
    assert not weights[2].any()
    assert not weights[:, 2].any()
