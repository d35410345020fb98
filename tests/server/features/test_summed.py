from __future__ import annotations

import numpy as np
import pytest

from vireo.server.features import summed as summing
from vireo.server.features.summed import summed

ROWS = np.array([[1, 2], [2, 0], [0, 1], [3, -1]], np.int32)
WEIGHTS = np.array([[0.5, -0.25], [1.0, 0.0], [2.0, 0.5], [0.0, 0.0]], np.float32)


def test_every_video_with_weights_is_listed_once_with_their_sum() -> None:
    rows, sums = summed(ROWS[[0, 1]], WEIGHTS[[0, 1]], 4)

    assert rows.dtype == np.int64
    assert sums.dtype == np.float32
    assert rows.tolist() == [1, 2]
    assert sums == pytest.approx([0.5, 0.75])


def test_a_sum_can_be_negative() -> None:
    assert summed(ROWS[:1], WEIGHTS[:1], 4)[1] == pytest.approx([0.5, -0.25])


def test_without_weights_nothing_is_listed() -> None:
    for some in (ROWS[:0], ROWS[:, :0]):
        rows, sums = summed(some, np.empty(some.shape, np.float32), 4)
        assert len(rows) == len(sums) == 0


@pytest.mark.parametrize("watched", [[0, 1, 2, 3], [3], []])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_large_catalogue_is_summed_as_a_small_one_is(
    monkeypatch: pytest.MonkeyPatch, watched: list[int], kind: type[np.floating]
) -> None:
    some = np.array(watched, np.int64)
    rows, weights = ROWS[some], WEIGHTS[some].astype(kind)
    small = summed(rows, weights, 4)
    monkeypatch.setattr(summing, "DENSE_LIMIT", 0)
    many = summed(rows, weights, 4)
    monkeypatch.setattr(summing, "DENSE_SHARE", 10)
    few = summed(rows, weights, 4)
    for large in (many, few):
        assert [part.dtype for part in large] == [part.dtype for part in small]
        np.testing.assert_array_equal(large[0], small[0])
        np.testing.assert_array_equal(large[1], small[1])
