from __future__ import annotations

import numpy as np
import pytest

from tests.builders.co_watch import co_watch_scores
from vireo.server.features.co_watch import (
    CO_WATCH_HALF_LIFE,
    CO_WATCH_HISTORY,
    co_watched,
)

ROWS = np.array([[1, 2], [2, -1], [0, -1], [-1, -1]], np.int32)
WEIGHTS = np.array([[0.5, 0.25], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]], np.float32)


def test_the_last_watch_counts_whole_and_earlier_ones_decay() -> None:
    scores = co_watch_scores(np.array([0, 1]), ROWS, WEIGHTS)

    decay = 0.5 ** (1 / CO_WATCH_HALF_LIFE)
    expected = [0, 0.5 * decay, 1.0 + 0.25 * decay, 0]
    assert scores.dtype == np.float32
    assert scores == pytest.approx(expected)


def test_only_videos_that_something_leads_to_are_listed_once() -> None:
    rows, scores = co_watched(np.array([0, 1, 3]), ROWS, WEIGHTS)

    assert rows.tolist() == [1, 2]
    assert (scores > 0).all()


def test_nothing_leads_anywhere_from_an_empty_history() -> None:
    assert co_watch_scores(np.empty(0, np.int64), ROWS, WEIGHTS).tolist() == [0, 0, 0, 0]
    assert len(co_watched(np.empty(0, np.int64), ROWS, WEIGHTS)[0]) == 0


def test_watches_before_the_recent_ones_do_not_count() -> None:
    old = np.array([2] + [3] * CO_WATCH_HISTORY)

    assert not co_watch_scores(old, ROWS, WEIGHTS).any()
