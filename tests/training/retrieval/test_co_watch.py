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

LETTERS = [chr(ord("a") + index) for index in range(26)]


def data_of(*sequences: str) -> RetrievalData:
    """One viewer for each sequence of one-letter videos a to z, all of it train part."""
    named = {f"viewer-{index:02}": list(sequence) for index, sequence in enumerate(sequences)}
    watches = watches_frame(named, held_out=0)
    return RetrievalData.build(watches, videos_frame(LETTERS), viewers_frame({}))


@pytest.mark.parametrize(
    ("sequences", "video", "followers"),
    [
        (("abc", "abd", "abz"), "a", "bcdz"),  # sooner and more frequent ones first
        (("ab",), "b", ""),  # nothing came later
        (("ab", "cd"), "b", ""),  # viewers aren't chained together
        (("ab", "ac", "bx", "by", "bz"), "a", "cb"),  # b is watched everywhere, and damped
        (("a", "b"), "a", ""),
        (("".join(LETTERS[: STEPS + 2]),), "a", "".join(LETTERS[1 : STEPS + 1])),
    ],
)
def test_followers_are_those_that_viewers_watched_soon_after(
    sequences: tuple[str, ...], video: str, followers: str
) -> None:
    rows, weights = co_watch_table(data_of(*sequences), k=26)
    own = rows[LETTERS.index(video)]
    assert "".join(LETTERS[row] for row in own[own >= 0]) == followers
    assert np.array_equal(weights > 0, rows >= 0)
    assert (np.diff(weights, axis=1) <= 0).all()


def test_weights_are_probabilities_by_step_damped_by_popularity() -> None:
    rows, weights = co_watch_table(data_of("abc", "abd", "abz"), k=4)
    assert rows.dtype == np.int32
    assert weights.dtype == np.float32
    assert weights[0, 0] == pytest.approx(1 / 3**POPULARITY_DAMPING)
    assert weights[0, 1:] == pytest.approx([STEP_DECAY / 3] * 3)


def test_the_table_leads_around_the_ring_however_little_of_it_is_made_at_a_time(
    ring: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = co_watch_table(ring, k=6)
    assert np.argmax(co_watch_scores(np.array([3, 4, 5]), *whole)) == 6
    monkeypatch.setattr("vireo.training.retrieval.co_watch.PAIRS_AT_A_TIME", 25)
    parted = co_watch_table(ring, k=6)
    some = co_watch_table(ring, k=6, videos=range(3, 8))
    fewer = co_watch_table(ring, k=2)
    for table, same, part, first in zip(whole, parted, some, fewer, strict=True):
        assert np.array_equal(table, same)
        assert np.array_equal(table[3:8], part)
        assert np.array_equal(table[:, :2], first)


def test_a_large_catalogue_keeps_fewer_followers_of_each_video() -> None:
    assert co_watch_neighbours(100) == co_watch_neighbours(187_500) == 64
    assert co_watch_neighbours(1_000_000) == 12
    assert co_watch_neighbours(100_000_000) == 8
