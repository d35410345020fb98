from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.training.retrieval import local_ease
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.ease import closed_form
from vireo.training.retrieval.local_ease import local_ease_table

Matrix = npt.NDArray[np.float64]
VIDEOS = 12


def data_of(sequences: list[list[int]], videos: int = VIDEOS) -> RetrievalData:
    """All watches are of the train part."""
    named = {f"viewer-{n:03}": [f"v{row:02}" for row in own] for n, own in enumerate(sequences)}
    ids = [f"v{row:02}" for row in range(videos)]
    return RetrievalData.build(
        watches_frame(named, held_out=0), videos_frame(ids), viewers_frame({})
    )


def matrix_of(sequences: list[list[int]], videos: int = VIDEOS) -> Matrix:
    watched = np.zeros((len(sequences), videos))
    for viewer, own in enumerate(sequences):
        watched[viewer, own] = 1
    return watched


def whole(data: RetrievalData, k: int = VIDEOS) -> Matrix:
    """The table as a matrix of all pairs."""
    rows, weights = local_ease_table(data, k)
    assert rows.dtype == np.int32
    assert weights.dtype == np.float32
    assert rows.shape == weights.shape == (data.video_count, k)
    assert rows.min() >= 0
    matrix = np.zeros((data.video_count, data.video_count))
    np.add.at(matrix, (np.repeat(np.arange(len(rows)), k), rows.ravel()), weights.ravel())
    return matrix


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    random = np.random.default_rng(0)
    chances = 1 / np.arange(2.0, VIDEOS + 2)
    chances /= chances.sum()
    return [random.choice(VIDEOS, 5, replace=False, p=chances).tolist() for _ in range(300)]


def test_with_all_others_as_regressors_it_is_ease(sequences: list[list[int]]) -> None:
    watched = matrix_of(sequences)
    assert (watched.T @ watched > 0).all(), "every two videos share a viewer"
    as_sparse = sparse.csr_array(watched.astype(np.float32))  # type: ignore[no-untyped-call]
    expected = closed_form(as_sparse, float(watched.sum(0).mean()))
    np.testing.assert_allclose(whole(data_of(sequences)), expected, rtol=1e-3, atol=1e-5)
    assert (expected < 0).any()


def test_a_video_is_regressed_on_those_that_predict_it_best_by_themselves(
    sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ease, "REGRESSORS", 2)
    watched = matrix_of(sequences)
    gram, ridge = watched.T @ watched, watched.sum(0).mean()
    found = whole(data_of(sequences))
    for row in range(VIDEOS):
        alone = gram[row] ** 2 / (np.diagonal(gram) + ridge)
        alone[row] = 0
        best = np.argsort(-alone)[:2]
        regression = gram[np.ix_(best, best)] + ridge * np.eye(2)
        expected = np.zeros(VIDEOS)
        expected[best] = np.linalg.solve(regression, gram[best, row])
        np.testing.assert_allclose(found[:, row], expected, rtol=1e-4, atol=1e-6)


def test_kept_are_the_weights_of_largest_absolute_value(sequences: list[list[int]]) -> None:
    data = data_of(sequences)
    every, some = whole(data), whole(data, k=3)
    assert (np.count_nonzero(some, axis=1) == 3).all()
    np.testing.assert_array_equal(
        np.sort(np.abs(some), axis=1)[:, -3:], np.sort(np.abs(every), axis=1)[:, -3:]
    )


def test_the_table_is_the_same_however_little_of_it_is_made_at_a_time(
    sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(sequences)
    expected = local_ease_table(data, 5)
    monkeypatch.setattr("vireo.training.retrieval.co_watch.PAIRS_AT_A_TIME", 40)
    monkeypatch.setattr(local_ease, "_AT_A_TIME", 5)
    for table, same in zip(local_ease_table(data, 5), expected, strict=True):
        np.testing.assert_array_equal(table, same)


def test_a_count_that_one_of_two_videos_has_dropped_is_the_others() -> None:
    # Row 0 keeps two counts of its 3; row 3 keeps that with row 0.
    near = np.array([[1, 2], [0, -1], [0, 3], [0, 2], [-1, -1]], np.int32)
    together = np.array([[9, 8], [9, 0], [8, 3], [2, 3], [0, 0]], np.float32)
    diagonal = np.array([20, 20, 20, 20, 10], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_ease, "REGRESSORS", 2)
        found = local_ease._regressions(near, together, diagonal)
    # Of video 2 the regressors are 0 and 3, which share 2 viewers by the row of 3 alone.
    expected = np.linalg.solve([[20, 2], [2, 20]], [8, 3])
    np.testing.assert_allclose(found[2], expected, rtol=1e-5)
    assert found[1].tolist() == pytest.approx([9 / 20, 0]), "padding has no weight"


def test_only_the_last_watches_of_a_viewer_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ease, "HISTORY", 2)
    found = whole(data_of([[0, 1, 2], [0, 1, 2], [3, 1, 2]], 4), k=4)
    assert found[1, 2] > 0
    assert not found[[0, 3]].any()
    assert not found[:, [0, 3]].any()


def test_without_two_watches_of_a_viewer_nothing_is_known() -> None:
    assert not whole(data_of([[0], [1], [1]])).any()
