import numpy as np
import pytest

from vireo.server.recommend.candidates import Candidates, best

KEYS = np.array([7, 3, 9, 1, 5], np.int64)


def some(count: int) -> Candidates:
    keys = np.arange(count, dtype=np.int64)
    return Candidates(keys, keys, np.ones(count, np.uint32), {"s": keys.astype(np.float32)})


def test_take_keeps_all_columns_aligned() -> None:
    taken = some(4).take(np.array([3, 1]))
    assert taken.keys.tolist() == taken.rows.tolist() == taken.scores["s"].tolist() == [3, 1]


def test_concatenate_keeps_the_order_of_the_parts() -> None:
    joined = Candidates.concatenate([some(2), some(0), some(1)])
    assert joined.scores["s"].tolist() == [0, 1, 0]
    assert len(Candidates.concatenate([])) == 0


@pytest.mark.parametrize(
    ("rows", "scores", "limit", "expected"),
    [
        ([4, 0, 2, 1], [0.5, 1.0, 0.5, 0.5], 9, [0, 1, 4, 2]),
        ([0, 1, 2, 3, 4], [0.5, 1.0, 0.5, 0.5, 0.1], 3, [1, 3, 0]),
        ([], [], 3, []),
    ],
    ids=["ties by key", "a tie at the limit", "nothing"],
)
def test_the_best_come_first_and_ties_by_key(
    rows: list[int], scores: list[float], limit: int, expected: list[int]
) -> None:
    found = best(np.array(rows, np.int64), np.array(scores, np.float32), KEYS, limit)
    assert found.tolist() == expected
