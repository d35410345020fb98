from __future__ import annotations

import json

import numpy as np
import pytest

from vireo.server.home import Home
from vireo.training.evaluation.diversity import Point, ScoredLists, diversity_curve, worth_it
from vireo.training.evaluation.studies import Studies


def test_the_chosen_strength_is_the_last_before_the_loss_is_too_large() -> None:
    curve = [Point(strength, ndcg, 0, 0, 0) for strength, ndcg in
             [(0.0, 0.2), (0.1, 0.201), (0.3, 0.1985), (0.5, 0.197), (0.7, 0.2)]]  # fmt: skip
    assert worth_it(curve, allowed=0.01) == 0.3
    assert worth_it(curve[:1]) == 0.0


def test_the_chosen_strength_keeps_the_hit_rate_too() -> None:
    hits = [(0.0, 0.3), (0.1, 0.299), (0.3, 0.29)]
    curve = [Point(strength, 0.2, hit_rate, 0, 0) for strength, hit_rate in hits]
    assert worth_it(curve, allowed=0.01) == 0.1


def test_strength_trades_gain_for_distance() -> None:
    # Twelve of one kind score above eight that differ.
    vectors = np.concatenate([np.tile([[1.0, 0.0]], (12, 1)), np.eye(10)[2:, :2] + 1e-3])
    vectors = np.concatenate([vectors, np.vstack([np.zeros((12, 8)), np.eye(8)])], axis=1)
    lists = ScoredLists(
        np.arange(20)[None],
        np.linspace(1, 0.5, 20, dtype=np.float32)[None],
        np.array([1]),
    )
    plain, diverse = diversity_curve(lists, vectors.astype(np.float32), [0.0, 5.0])
    assert plain.ndcg_10 > diverse.ndcg_10
    assert plain.intra_list_distance < diverse.intra_list_distance


def test_the_served_curve_begins_with_the_chains_own_measures(
    studies: Studies, trained_home: Home
) -> None:
    found = studies.diversity()
    report = trained_home.run("trained") / "report"
    chain = json.loads((report / "metrics.json").read_text())["chain"]
    released = [point for point in found["points"] if point["strength"] == found["chosen"]]
    assert released[0]["ndcg_10"] == pytest.approx(chain["ndcg_10"])
