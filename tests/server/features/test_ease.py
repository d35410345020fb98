from __future__ import annotations

import numpy as np
import pytest

from server.features.ease import EASE_HALF_LIFE, EASE_HISTORY, ease_scores

ROWS = np.array([[1, 2], [2, 0], [0, 1], [3, 3]], np.int32)
WEIGHTS = np.array([[0.5, -0.25], [1.0, 0.0], [2.0, 0.5], [0.0, 0.0]], np.float32)


def test_the_last_watch_counts_whole_and_earlier_ones_decay() -> None:
    scores = ease_scores(np.array([0, 1]), ROWS, WEIGHTS)

    decay = 0.5 ** (1 / EASE_HALF_LIFE)
    assert scores.dtype == np.float32
    assert scores == pytest.approx([0, 0.5 * decay, 1.0 - 0.25 * decay, 0])


def test_a_history_can_speak_against_a_video() -> None:
    assert ease_scores(np.array([0]), ROWS, WEIGHTS)[2] == pytest.approx(-0.25)


def test_an_empty_history_says_nothing() -> None:
    assert ease_scores(np.empty(0, np.int64), ROWS, WEIGHTS).tolist() == [0, 0, 0, 0]


def test_watches_before_the_recent_ones_do_not_count() -> None:
    old = np.array([2] + [3] * EASE_HISTORY)

    assert not ease_scores(old, ROWS, WEIGHTS).any()
