"""Tables of each video's neighbours: EASE of all pairs or some, and what is watched soon after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from tests.builders.co_watch import co_watch_scores
from tests.builders.watches import towers_data
from vireo.training.retrieval import neighbours
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.neighbours import (
    EASE_LAMBDA,
    POPULARITY_DAMPING,
    STEP_DECAY,
    STEPS,
    closed_form,
    co_watch_neighbours,
    co_watch_table,
    ease_table,
    local_ease_table,
)

Matrix = npt.NDArray[np.float64]
VIDEOS = 12


def data_of(
    sequences: Sequence[Sequence[int]], videos: int = VIDEOS, held_out: int = 0
) -> RetrievalData:
    named = {f"viewer-{n:03}": [f"v{row:02}" for row in own] for n, own in enumerate(sequences)}
    ids = [f"v{row:02}" for row in range(videos)]
    return towers_data(named, ids, held_out=held_out)


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
    weights = matrix_of(ease_table(data, k=1000))
    for row in range(VIDEOS):
        others = np.delete(np.arange(VIDEOS), row)
        known = watched[:, others]
        ridge = known.T @ known + EASE_LAMBDA * np.eye(VIDEOS - 1)
        fitted = np.linalg.solve(ridge, known.T @ watched[:, row])
        assert weights[others, row] == pytest.approx(fitted, rel=1e-4, abs=1e-6)
    assert not weights.diagonal().any()
    np.testing.assert_array_equal(matrix_of(ease_table(data, k=4)), of_strongest(weights, 4))
    assert (weights < 0).any(), "what is seldom watched together"


def test_validation_watches_are_not_fitted() -> None:
    weights = matrix_of(ease_table(data_of([[0, 1, 2]] * 5, 3, held_out=1)))
    assert weights[0, 1] > 0
    assert not weights[2].any()
    assert not weights[:, 2].any()


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
    monkeypatch.setattr("vireo.training.retrieval.neighbours.PAIRS_AT_A_TIME", 40)
    monkeypatch.setattr(neighbours, "_AT_A_TIME", 5)
    for table, same in zip(local_ease_table(data, VIDEOS), whole, strict=True):
        np.testing.assert_array_equal(table, same)


def test_a_video_is_regressed_on_those_that_predict_it_best_by_themselves(
    sequences: list[list[int]], watched: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "REGRESSORS", 2)
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


def test_only_the_last_watches_of_a_viewer_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not matrix_of(local_ease_table(data_of([[0], [1], [1]]), 3)).any()
    monkeypatch.setattr(neighbours, "HISTORY", 2)
    found = matrix_of(local_ease_table(data_of([[0, 1, 2], [0, 1, 2], [3, 1, 2]], 4), 4))
    assert found[1, 2] > 0
    assert not found[[0, 3]].any()
    assert not found[:, [0, 3]].any()


LETTERS = [chr(ord("a") + index) for index in range(26)]


def of_letters(*sequences: str) -> RetrievalData:
    """One viewer for each sequence of one-letter videos a to z, all of it train part."""
    named = {f"viewer-{index:02}": sequence for index, sequence in enumerate(sequences)}
    return towers_data(named, LETTERS, held_out=0)


@pytest.mark.parametrize(
    ("sequences", "video", "followers"),
    [
        (("abc", "abd", "abz"), "a", "bcdz"),  # sooner and more frequent ones first
        (("ab",), "b", ""),  # nothing came later
        (("ab", "cd"), "b", ""),  # viewers aren't chained together
        (("ab", "ac", "bx", "by", "bz"), "a", "cb"),  # b is watched everywhere, and damped
        (("a", "b"), "a", ""),
        (("".join(LETTERS[: STEPS + 2]),), "a", "".join(LETTERS[1 : STEPS + 1])),
    ],
)
def test_followers_are_those_that_viewers_watched_soon_after(
    sequences: tuple[str, ...], video: str, followers: str
) -> None:
    rows, weights = co_watch_table(of_letters(*sequences), k=26)
    own = rows[LETTERS.index(video)]
    assert "".join(LETTERS[row] for row in own[own >= 0]) == followers
    assert np.array_equal(weights > 0, rows >= 0)
    assert (np.diff(weights, axis=1) <= 0).all()


def test_weights_are_probabilities_by_step_damped_by_popularity() -> None:
    rows, weights = co_watch_table(of_letters("abc", "abd", "abz"), k=4)
    assert rows.dtype == np.int32
    assert weights.dtype == np.float32
    assert weights[0, 0] == pytest.approx(1 / 3**POPULARITY_DAMPING)
    assert weights[0, 1:] == pytest.approx([STEP_DECAY / 3] * 3)


def test_the_table_leads_around_the_ring_however_little_of_it_is_made_at_a_time(
    ring: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = co_watch_table(ring, k=6)
    assert np.argmax(co_watch_scores(np.array([3, 4, 5]), *whole)) == 6
    monkeypatch.setattr("vireo.training.retrieval.neighbours.PAIRS_AT_A_TIME", 25)
    parted = co_watch_table(ring, k=6)
    fewer = co_watch_table(ring, k=2)
    for table, same, first in zip(whole, parted, fewer, strict=True):
        assert np.array_equal(table, same)
        assert np.array_equal(table[:, :2], first)


def test_a_large_catalogue_keeps_fewer_followers_of_each_video() -> None:
    assert co_watch_neighbours(100) == co_watch_neighbours(187_500) == 64
    assert co_watch_neighbours(1_000_000) == 12
    assert co_watch_neighbours(100_000_000) == 8
