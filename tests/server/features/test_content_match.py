from __future__ import annotations

import numpy as np
import pytest

from vireo.server.features.content_match import (
    CONTENT_HALF_LIFE,
    CONTENT_HISTORY,
    content_match,
)
from vireo.server.features.ranking_inputs import RANKER_HISTORY

CONTENT = np.array([[1, 0], [0, 1], [-1, 0], [0, 0]], np.float32)
EVERY = np.arange(4)


def test_the_last_watch_counts_whole_and_earlier_ones_decay() -> None:
    matches = content_match(np.array([0, 1]), EVERY, CONTENT)

    decay = 0.5 ** (1 / CONTENT_HALF_LIFE)
    length = np.hypot(decay, 1)
    assert matches.dtype == np.float32
    assert matches == pytest.approx([decay / length, 1 / length, -decay / length, 0])


@pytest.mark.parametrize("history", [[], [3], [0, 2, 3, 3][2:]])
def test_nothing_matches_a_history_whose_content_is_unknown(history: list[int]) -> None:
    assert not content_match(np.array(history, np.int64), EVERY, CONTENT).any()


def test_watches_before_the_recent_ones_do_not_count() -> None:
    old = np.array([0] + [1] * CONTENT_HISTORY)

    assert content_match(old, EVERY, CONTENT) == pytest.approx([0, 1, 0, 0])


def test_the_rankers_training_set_keeps_as_much_history() -> None:
    assert CONTENT_HISTORY <= RANKER_HISTORY
