from __future__ import annotations

import numpy as np
import pytest

from vireo.training.evaluation.baselines.ease import Ease
from vireo.training.evaluation.baselines.past import Past
from vireo.training.retrieval.ease import closed_form


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_ease_finds_videos_watched_together() -> None:
    past = Past([rows(0, 1)] * 5 + [rows(2, 3)] * 5, 4)

    scores = Ease(closed_form(past.matrix, 1.0)).scores([rows(0), rows(3), rows()])

    assert np.argmax(np.delete(scores[0], 0)) == 0
    assert np.argmax(scores[1][:3]) == 2
    assert not scores[2].any()


def test_ease_is_the_ridge_regression_of_each_video_on_the_others() -> None:
    random = np.random.default_rng(0)
    matrix = (random.random((40, 6)) < 0.4).astype(float)
    watched = [np.flatnonzero(line) for line in matrix]
    others = np.delete(matrix, 2, axis=1)
    ridge = np.linalg.solve(others.T @ others + 3 * np.eye(5), others.T @ matrix[:, 2])

    scores = Ease(closed_form(Past(watched, 6).matrix, 3.0)).scores(watched)

    assert scores[:, 2] == pytest.approx(others @ ridge, abs=1e-5)


def test_with_recency_a_watch_one_half_life_back_says_half_as_much() -> None:
    weights = np.arange(16, dtype=np.float32).reshape(4, 4)

    scores = Ease(weights, half_life=2.0).scores([rows(3, 0, 1)])

    expected = weights[1] + 0.5**0.5 * weights[0] + 0.5 * weights[3]
    assert scores[0] == pytest.approx(expected)
