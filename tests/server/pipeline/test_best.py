import numpy as np

from vireo.server.pipeline.best import best

KEYS = np.array([7, 3, 9, 1, 5], np.int64)


def test_the_best_come_first_and_ties_by_key() -> None:
    rows = np.array([4, 0, 2, 1], np.int64)
    scores = np.array([0.5, 1.0, 0.5, 0.5], np.float32)
    assert best(rows, scores, KEYS, 9).tolist() == [0, 1, 4, 2]


def test_a_tie_at_the_limit_is_decided_by_key() -> None:
    scores = np.array([0.5, 1.0, 0.5, 0.5, 0.1], np.float32)
    assert best(np.arange(5), scores, KEYS, 3).tolist() == [1, 3, 0]


def test_nothing_has_no_best() -> None:
    assert len(best(np.arange(0), np.empty(0, np.float32), KEYS, 3)) == 0
