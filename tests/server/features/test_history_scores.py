from __future__ import annotations

import numpy as np
import pytest

from tests.builders.co_watch import co_watch_scores
from vireo.server.features.history_scores import (
    CO_WATCH_HALF_LIFE,
    CO_WATCH_HISTORY,
    CONTENT_HALF_LIFE,
    CONTENT_HISTORY,
    co_watched,
    content_match,
    summed,
)
from vireo.server.features.looked_up import looked_up
from vireo.server.features.model_inputs import RANKER_HISTORY

ROWS = np.array([[1, 2], [2, -1], [0, -1], [-1, -1]], np.int32)
WEIGHTS = np.array([[0.5, 0.25], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]], np.float32)


def test_the_last_watch_counts_whole_and_earlier_ones_decay() -> None:
    scores = co_watch_scores(np.array([0, 1]), ROWS, WEIGHTS)

    decay = 0.5 ** (1 / CO_WATCH_HALF_LIFE)
    expected = [0, 0.5 * decay, 1.0 + 0.25 * decay, 0]
    assert scores.dtype == np.float32
    assert scores == pytest.approx(expected)


def test_nothing_leads_anywhere_from_an_empty_history() -> None:
    assert co_watch_scores(np.empty(0, np.int64), ROWS, WEIGHTS).tolist() == [0, 0, 0, 0]
    assert len(co_watched(np.empty(0, np.int64), ROWS, WEIGHTS)[0]) == 0


def test_watches_before_the_recent_ones_do_not_count() -> None:
    old = np.array([2] + [3] * CO_WATCH_HISTORY)

    assert not co_watch_scores(old, ROWS, WEIGHTS).any()


CONTENT = np.array([[1, 0], [0, 1], [-1, 0], [0, 0]], np.float32)
EVERY = np.arange(4)


def test_the_content_of_the_last_watch_counts_whole_and_earlier_ones_decay() -> None:
    matches = content_match(np.array([0, 1]), EVERY, CONTENT)

    decay = 0.5 ** (1 / CONTENT_HALF_LIFE)
    length = np.hypot(decay, 1)
    assert matches.dtype == np.float32
    assert matches == pytest.approx([decay / length, 1 / length, -decay / length, 0])


@pytest.mark.parametrize("history", [[], [3], [0, 2, 3, 3][2:]])
def test_nothing_matches_a_history_whose_content_is_unknown(history: list[int]) -> None:
    assert not content_match(np.array(history, np.int64), EVERY, CONTENT).any()


def test_the_content_of_watches_before_the_recent_ones_does_not_count() -> None:
    old = np.array([0] + [1] * CONTENT_HISTORY)

    assert content_match(old, EVERY, CONTENT) == pytest.approx([0, 1, 0, 0])


def test_the_rankers_training_set_keeps_as_much_history() -> None:
    assert CONTENT_HISTORY <= RANKER_HISTORY


SCORES = "vireo.server.features.history_scores"
TABLE = np.array([[1, 2], [2, 0], [0, 1], [3, -1]], np.int32)
TABLE_WEIGHTS = np.array([[0.5, -0.25], [1.0, 0.0], [2.0, 0.5], [0.0, 0.0]], np.float32)


def test_every_video_with_weights_is_listed_once_with_their_sum() -> None:
    rows, sums = summed(TABLE[[0, 1]], TABLE_WEIGHTS[[0, 1]], 4)

    assert rows.dtype == np.int64
    assert sums.dtype == np.float32
    assert rows.tolist() == [1, 2]
    assert sums == pytest.approx([0.5, 0.75])
    assert summed(TABLE[:1], TABLE_WEIGHTS[:1], 4)[1] == pytest.approx([0.5, -0.25])


def test_without_weights_nothing_is_listed() -> None:
    for some in (TABLE[:0], TABLE[:, :0]):
        rows, sums = summed(some, np.empty(some.shape, np.float32), 4)
        assert len(rows) == len(sums) == 0


@pytest.mark.parametrize("watched", [[0, 1, 2, 3], [3], []])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_large_catalogue_is_summed_as_a_small_one_is(
    monkeypatch: pytest.MonkeyPatch, watched: list[int], kind: type[np.floating]
) -> None:
    some = np.array(watched, np.int64)
    rows, weights = TABLE[some], TABLE_WEIGHTS[some].astype(kind)
    small = summed(rows, weights, 4)
    monkeypatch.setattr(f"{SCORES}.DENSE_LIMIT", 0)
    many = summed(rows, weights, 4)
    monkeypatch.setattr(f"{SCORES}.DENSE_SHARE", 10)
    few = summed(rows, weights, 4)
    for large in (many, few):
        assert [part.dtype for part in large] == [part.dtype for part in small]
        np.testing.assert_array_equal(large[0], small[0])
        np.testing.assert_array_equal(large[1], small[1])


def test_every_finite_half_becomes_the_same_number() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    table = halves[np.isfinite(halves)].reshape(-1, 16)
    found = looked_up(table, np.arange(len(table)))
    assert found.dtype == np.float32
    assert np.array_equal(found, table.astype(np.float32))
    assert np.array_equal(np.signbit(found), np.signbit(table))


def test_rows_come_as_often_and_in_the_order_that_they_are_asked_for() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4))
    rows = np.array([3, 3, 8, 0])
    for precision in (np.float32, np.float16):
        table = vectors.astype(precision)
        assert np.array_equal(looked_up(table, rows), table[rows].astype(np.float32))
    assert looked_up(vectors.astype(np.float16), rows[:0]).shape == (0, 4)
