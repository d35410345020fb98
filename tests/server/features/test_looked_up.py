from __future__ import annotations

import numpy as np

from vireo.server.features.looked_up import looked_up


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
