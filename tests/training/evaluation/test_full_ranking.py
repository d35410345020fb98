from __future__ import annotations

import numpy as np

from vireo.training.evaluation.full_ranking import full_ranking


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
