from __future__ import annotations

import numpy as np
import pytest

from server.candidate.sources.ease import ease_scores

ROWS = np.array([[1, 2], [2, 0], [0, 1], [3, 3]], np.int32)
WEIGHTS = np.array([[0.5, -0.25], [1.0, 0.0], [2.0, 0.5], [0.0, 0.0]], np.float32)


def test_every_watch_counts_alike() -> None:
    scores = ease_scores(np.array([0, 1]), ROWS, WEIGHTS)
    assert scores.dtype == np.float32
    assert scores == pytest.approx([0, 0.5, 0.75, 0])
    assert scores.tolist() == ease_scores(np.array([1, 0]), ROWS, WEIGHTS).tolist()


def test_a_watch_can_speak_against_a_video() -> None:
    assert ease_scores(np.array([0]), ROWS, WEIGHTS)[2] == pytest.approx(-0.25)


def test_without_a_watch_nothing_is_said() -> None:
    assert ease_scores(np.empty(0, np.int64), ROWS, WEIGHTS).tolist() == [0, 0, 0, 0]
