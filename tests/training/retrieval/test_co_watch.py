from __future__ import annotations

import numpy as np
import pytest

from tests.builders.co_watch import co_watch_scores
from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.training.retrieval.co_watch import (
    POPULARITY_DAMPING,
    STEP_DECAY,
    STEPS,
    co_watch_neighbours,
    co_watch_table,
)
from vireo.training.retrieval.data import RetrievalData


def data_of(*sequences: str) -> RetrievalData:
    """One viewer for each sequence of one-letter videos a to z, all of it train part."""
    letters = [chr(ord("a") + index) for index in range(26)]
    named = {f"viewer-{index:02}": list(sequence) for index, sequence in enumerate(sequences)}
    return RetrievalData.build(
        watches_frame(named, held_out=0), videos_frame(letters), viewers_frame({})
    )


def test_sooner_and_more_frequent_followers_rank_first() -> None:
    rows, weights = co_watch_table(data_of("abc", "abd", "abz"), k=4)

    assert rows[0].tolist() == [1, 2, 3, 25]
    expected = STEP_DECAY / 3
    assert weights[0, 0] == pytest.approx(1 / 3**POPULARITY_DAMPING)
    assert weights[0, 1:] == pytest.approx([expected] * 3)


def test_only_later_watches_are_followers() -> None:
    rows, weights = co_watch_table(data_of("ab"), k=2)

    assert rows[0].tolist() == [1, -1]
    assert rows[1].tolist() == [-1, -1]
    assert weights[1].tolist() == [0, 0]


def test_viewers_are_not_chained_together() -> None:
    rows, _ = co_watch_table(data_of("ab", "cd"), k=5)

    assert set(rows[1]) == {-1}


def test_watches_farther_than_the_steps_do_not_follow() -> None:
    sequence = "".join(chr(ord("a") + index) for index in range(STEPS + 2))

    rows, _ = co_watch_table(data_of(sequence), k=26)

    assert sorted(rows[0][rows[0] >= 0]) == list(range(1, STEPS + 1))


def test_only_the_k_strongest_are_kept() -> None:
    whole, all_weights = co_watch_table(data_of("abcdef", "acbfed"), k=26)

    rows, weights = co_watch_table(data_of("abcdef", "acbfed"), k=2)

    assert rows.shape == (26, 2)
    assert rows.dtype == np.int32
    assert weights.dtype == np.float32
    assert np.array_equal(rows, whole[:, :2])
    assert np.array_equal(weights, all_weights[:, :2])
    assert (np.diff(all_weights, axis=1) <= 0).all()


def test_a_popular_follower_is_damped() -> None:
    # b and c follow a equally often, but b is watched everywhere.
    rows, _ = co_watch_table(data_of("ab", "ac", "bx", "by", "bz"), k=2)

    assert rows[0].tolist() == [2, 1]


def test_viewers_with_single_watches_give_an_empty_table() -> None:
    rows, weights = co_watch_table(data_of("a", "b"), k=3)

    assert (rows == -1).all()
    assert not weights.any()


def test_the_table_leads_around_the_ring(ring: RetrievalData) -> None:
    rows, weights = co_watch_table(ring, k=10)
    history = np.array([3, 4, 5])

    scores = co_watch_scores(history, rows, weights)

    assert np.argmax(scores) == 6


def test_the_table_is_the_same_however_little_of_it_is_made_at_a_time(
    ring: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = co_watch_table(ring, k=6)

    monkeypatch.setattr("vireo.training.retrieval.co_watch.PAIRS_AT_A_TIME", 25)
    parted = co_watch_table(ring, k=6)
    some = co_watch_table(ring, k=6, videos=range(3, 8))

    for table, same, part in zip(whole, parted, some, strict=True):
        assert np.array_equal(table, same)
        assert np.array_equal(table[3:8], part)


def test_a_large_catalogue_keeps_fewer_followers_of_each_video() -> None:
    assert co_watch_neighbours(100) == co_watch_neighbours(187_500) == 64
    assert co_watch_neighbours(1_000_000) == 12
    assert co_watch_neighbours(100_000_000) == 8
