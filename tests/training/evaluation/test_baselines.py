from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.baselines import Ease, full_ranking, popularity_scores


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_the_rank_counts_better_unseen_videos_alone() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.1]], np.float32)

    assert full_ranking(scores, [rows(0)], rows(2)).tolist() == [1]
    assert full_ranking(scores, [rows(0, 1)], rows(2)).tolist() == [0]
    assert full_ranking(scores, [rows()], rows(3)).tolist() == [3]


def test_ties_count_against_the_held_out_video() -> None:
    scores = np.zeros((1, 5), np.float32)

    assert full_ranking(scores, [rows(1)], rows(3)).tolist() == [3]


def test_a_score_that_is_not_a_number_ranks_last() -> None:
    scores = np.array([[np.nan, 0.5, 0.4], [0.6, np.nan, 0.4]], np.float32)

    assert full_ranking(scores, [rows(), rows()], rows(0, 0)).tolist() == [2, 1]


def test_popularity_scores_every_viewer_alike() -> None:
    scores = popularity_scores([3, 1, 2], viewers=2)

    assert scores.dtype == np.float32
    assert scores.tolist() == [[3, 1, 2], [3, 1, 2]]


def test_ease_finds_what_goes_together() -> None:
    watched = [rows(0, 1)] * 5 + [rows(2, 3)] * 5

    scores = Ease(watched, 4, regularisation=1.0).scores([rows(0), rows(3), rows()])

    assert np.argmax(np.delete(scores[0], 0)) == 0
    assert np.argmax(scores[1][:3]) == 2
    assert not scores[2].any()


def test_ease_is_the_ridge_regression_of_each_video_on_the_others() -> None:
    random = np.random.default_rng(0)
    matrix = (random.random((40, 6)) < 0.4).astype(float)
    watched = [np.flatnonzero(line) for line in matrix]
    others = np.delete(matrix, 2, axis=1)
    ridge = np.linalg.solve(others.T @ others + 3 * np.eye(5), others.T @ matrix[:, 2])

    scores = Ease(watched, 6, regularisation=3.0).scores(watched)

    assert scores[:, 2] == pytest.approx(others @ ridge, abs=1e-5)
