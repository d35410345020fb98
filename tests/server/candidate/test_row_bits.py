from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vireo.server.recommend.retrieval.row_bits import add, contains, every_row, mask_of, remove

COUNT = 21
ROWS = st.lists(st.integers(0, COUNT - 1), max_size=30).map(lambda rows: np.array(rows, np.int64))


@given(ROWS, ROWS)
def test_a_set_has_what_was_added_last_or_not_removed(
    removed: np.ndarray, added: np.ndarray
) -> None:
    bits = every_row(COUNT)
    remove(bits, removed)
    add(bits, added)

    has = [row not in removed or row in added for row in range(COUNT)]
    assert contains(bits, np.arange(COUNT)).tolist() == has
    assert mask_of(bits, COUNT).tolist() == has
