"""EASE of all pairs, and for large catalogues that of each video on some others."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.training.retrieval import local_ease
from vireo.training.retrieval.co_watch import co_watch_neighbours
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.ease import EASE_LAMBDA, closed_form, ease_table, ease_weights
from vireo.training.retrieval.local_ease import local_ease_table

Matrix = npt.NDArray[np.float64]
VIDEOS = 12


def data_of(
    sequences: Sequence[Sequence[int]], videos: int = VIDEOS, held_out: int = 0
) -> RetrievalData:
    named = {f"viewer-{n:03}": [f"v{row:02}" for row in own] for n, own in enumerate(sequences)}
    ids = [f"v{row:02}" for row in range(videos)]
    watches = watches_frame(named, held_out=held_out)
    return RetrievalData.build(watches, videos_frame(ids), viewers_frame({}))


def matrix_of(table: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]) -> Matrix:
    """A table as a matrix of all pairs."""
    rows, weights = table
    assert rows.dtype == np.int32
    assert weights.dtype == np.float32
    assert rows.shape == weights.shape
    assert rows.min() >= 0
    matrix = np.zeros((len(rows), len(rows)))
    owners = np.repeat(np.arange(len(rows)), rows.shape[1])
    np.add.at(matrix, (owners, rows.ravel()), weights.ravel())
    return matrix


def of_strongest(matrix: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    """The matrix with the k entries of each row that have the largest absolute values."""
    order = np.argsort(-np.abs(matrix), axis=1, kind="stable")[:, :k]
    kept = np.zeros_like(matrix)
    np.put_along_axis(kept, order, np.take_along_axis(matrix, order, 1), 1)
    return kept


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    random = np.random.default_rng(0)
    chances = 1 / np.arange(2.0, VIDEOS + 2)
    chances /= chances.sum()
    return [random.choice(VIDEOS, 5, replace=False, p=chances).tolist() for _ in range(300)]


@pytest.fixture(scope="module")
def watched(sequences: list[list[int]]) -> Matrix:
    matrix = np.zeros((len(sequences), VIDEOS))
    for viewer, own in enumerate(sequences):
        matrix[viewer, own] = 1
    assert (matrix.T @ matrix > 0).all(), "every two videos share a viewer"
    return matrix


def test_the_weights_are_those_of_the_regression_of_each_video_on_the_others(
    sequences: list[list[int]], watched: Matrix
) -> None:
    data = data_of(sequences)
    weights = ease_weights(data)
    for row in range(VIDEOS):
        others = np.delete(np.arange(VIDEOS), row)
        known = watched[:, others]
        ridge = known.T @ known + EASE_LAMBDA * np.eye(VIDEOS - 1)
        fitted = np.linalg.solve(ridge, known.T @ watched[:, row])
        assert weights[others, row] == pytest.approx(fitted, rel=1e-4, abs=1e-6)
    assert not weights.diagonal().any()
    np.testing.assert_array_equal(matrix_of(ease_table(data, k=1000)), weights)
    np.testing.assert_array_equal(matrix_of(ease_table(data, k=4)), of_strongest(weights, 4))
    assert (weights < 0).any(), "what is seldom watched together"


def test_validation_watches_are_not_fitted() -> None:
    weights = ease_weights(data_of([[0, 1, 2]] * 5, 3, held_out=1))
    assert weights[0, 1] > 0
    assert not weights[2].any()
    assert not weights[:, 2].any()


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
    inverse = np.linalg.inv(matrix.T.astype(float) @ matrix + EASE_LAMBDA * np.eye(videos))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert abs(expected).max() > 0.1
    assert peak < 4 * videos**2 * 2.5, "the matrix, and a band of a third of it while counting"


@pytest.mark.parametrize("limit", [29, 0])
def test_in_a_catalogue_over_the_limit_videos_are_regressed_on_some_others(
    ring: RetrievalData, limit: int
) -> None:
    expected = local_ease_table(ring, co_watch_neighbours(ring.video_count))
    for table, same in zip(ease_table(ring, limit=limit), expected, strict=True):
        np.testing.assert_array_equal(table, same)
    assert expected[1].any()


def test_with_all_others_as_regressors_it_is_ease(
    sequences: list[list[int]], watched: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(sequences)
    as_sparse = sparse.csr_array(watched.astype(np.float32))  # type: ignore[no-untyped-call]
    expected = closed_form(as_sparse, float(watched.sum(0).mean()))
    whole = local_ease_table(data, VIDEOS)
    np.testing.assert_allclose(matrix_of(whole), expected, rtol=1e-3, atol=1e-5)
    some = matrix_of(local_ease_table(data, 3))
    np.testing.assert_array_equal(some, of_strongest(matrix_of(whole), 3))
    monkeypatch.setattr("vireo.training.retrieval.co_watch.PAIRS_AT_A_TIME", 40)
    monkeypatch.setattr(local_ease, "_AT_A_TIME", 5)
    for table, same in zip(local_ease_table(data, VIDEOS), whole, strict=True):
        np.testing.assert_array_equal(table, same)


def test_a_video_is_regressed_on_those_that_predict_it_best_by_themselves(
    sequences: list[list[int]], watched: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ease, "REGRESSORS", 2)
    gram, ridge = watched.T @ watched, watched.sum(0).mean()
    found = matrix_of(local_ease_table(data_of(sequences), VIDEOS))
    for row in range(VIDEOS):
        alone = gram[row] ** 2 / (np.diagonal(gram) + ridge)
        alone[row] = 0
        best = np.argsort(-alone)[:2]
        regression = gram[np.ix_(best, best)] + ridge * np.eye(2)
        expected = np.zeros(VIDEOS)
        expected[best] = np.linalg.solve(regression, gram[best, row])
        np.testing.assert_allclose(found[:, row], expected, rtol=1e-4, atol=1e-6)


def test_a_count_that_one_of_two_videos_has_dropped_is_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_ease, "REGRESSORS", 2)
    # Row 0 keeps two counts of its 3; row 3 keeps that with row 0.
    near = np.array([[1, 2], [0, -1], [0, 3], [0, 2], [-1, -1]], np.int32)
    together = np.array([[9, 8], [9, 0], [8, 3], [2, 3], [0, 0]], np.float32)
    found = local_ease._regressions(near, together, np.array([20, 20, 20, 20, 10], np.float32))
    # Of video 2 the regressors are 0 and 3, which share 2 viewers by the row of 3 alone.
    np.testing.assert_allclose(found[2], np.linalg.solve([[20, 2], [2, 20]], [8, 3]), rtol=1e-5)
    assert found[1].tolist() == pytest.approx([9 / 20, 0]), "padding has no weight"


def test_only_the_last_watches_of_a_viewer_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not matrix_of(local_ease_table(data_of([[0], [1], [1]]), 3)).any()
    monkeypatch.setattr(local_ease, "HISTORY", 2)
    found = matrix_of(local_ease_table(data_of([[0, 1, 2], [0, 1, 2], [3, 1, 2]], 4), 4))
    assert found[1, 2] > 0
    assert not found[[0, 3]].any()
    assert not found[:, [0, 3]].any()
