from __future__ import annotations

import numpy as np

from vireo.training.evaluation.run import popularity_shares, recall_curves


def test_popularity_shares_count_places_by_decile() -> None:
    counts = np.arange(20)[::-1]
    shares = popularity_shares(counts, np.array([[0, 1, 19], [2, -1, -1]]))
    assert shares.tolist() == [0.5, 0.25, 0, 0, 0, 0, 0, 0, 0, 0.25]


def test_recall_is_given_up_to_the_size_of_the_catalogue() -> None:
    curves = recall_curves({"chain": np.array([0, 7])}, videos=30)
    assert curves == {"k": [1, 2, 5, 10, 20], "systems": {"chain": [0.5, 0.5, 0.5, 1.0, 1.0]}}
