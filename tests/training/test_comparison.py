from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vireo.training.comparison import compare, holm, intervals, paired_p
from vireo.training.metrics import gains, hit_rate, ndcg

RANDOM = np.random.default_rng(7)
RANKS = RANDOM.geometric(0.02, 400).astype(np.int64) - 1


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    values = np.stack([gains(RANKS, 10), gains(RANKS, 100)], axis=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=2_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    for column, ours in enumerate(intervals(values)):
        assert ours["value"] == pytest.approx(values[:, column].mean())
        assert (ours["low"], ours["high"]) == pytest.approx(
            (theirs.low[column], theirs.high[column])
        )


def test_p_is_that_of_scipys_permutation_test() -> None:
    differences = RANDOM.normal(0.12, 1, 200)
    theirs = stats.permutation_test(
        (differences, np.zeros(200)),
        lambda one, other, axis: (one - other).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        rng=1,
    )
    ours = paired_p(np.stack([differences, np.zeros(200), differences + 1], axis=1))
    assert ours[0] == pytest.approx(theirs.pvalue, abs=0.02)
    assert ours[1:] == pytest.approx([1.0, 1e-4])


def test_holm_multiplies_by_how_many_tests_are_left_and_never_steps_down() -> None:
    corrected = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9})
    assert corrected == pytest.approx({"b": 0.04, "c": 0.09, "a": 0.09, "d": 0.9})


def test_systems_are_tested_against_served_lists_or_else_the_chain() -> None:
    worse = RANKS + 5
    compared = compare({"popularity": worse, "chain": RANKS})
    assert compared["reference"] == "chain"
    assert compared["systems"]["chain"]["hr_10"]["value"] == hit_rate(RANKS, 10)
    test = compared["tests"]["popularity"]
    lead = ndcg(RANKS, 10) - ndcg(worse, 10)
    assert test["ndcg_10"]["value"] == pytest.approx(lead)
    assert 0 < test["ndcg_10"]["low"] < lead < test["ndcg_10"]["high"]
    assert test["p_holm"] < 0.01
    again = compare({"popularity": worse, "chain": RANKS, "served": RANKS})
    assert again["reference"] == "served"
    assert again["tests"]["chain"]["p"] == 1.0
