"""Measures of systems, and what is between two of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vireo.training.metrics import (
    auc,
    compare,
    coverage,
    expected_calibration_error,
    full_ranking,
    gains,
    hit_rate,
    holm,
    intra_list_distance,
    ndcg,
    paired_p,
    predicted_over_observed,
)


@pytest.mark.parametrize(
    ("scores", "watched", "target", "rank"),
    [
        ([0.9, 0.8, 0.7, 0.1], [0], 2, 1),
        ([0.9, 0.8, 0.7, 0.1], [0, 1], 2, 0),
        ([0.9, 0.8, 0.7, 0.1], [], 3, 3),
        ([0, 0, 0, 0, 0], [1], 3, 3),  # ties count against it
        ([math.nan, 0.5, 0.4], [], 0, 2),  # what isn't a number ranks last
        ([0.6, math.nan, 0.4], [], 0, 1),  # and before what is, to be safe
    ],
)
def test_the_rank_counts_better_unwatched_videos(
    scores: list[float], watched: list[int], target: int, rank: int
) -> None:
    rows = [np.array(watched, np.int64)]
    assert full_ranking(np.array([scores], np.float32), rows, np.array([target])) == [rank]


def test_a_hit_is_a_rank_below_k_and_ndcg_discounts_by_the_rank() -> None:
    ranks = np.array([0, 9, 10, np.iinfo(np.int64).max])
    assert hit_rate(ranks, 10) == 0.5
    assert ndcg(np.array([0]), 10) == 1.0
    assert ndcg(np.array([1, 10]), 10) == pytest.approx(1 / math.log2(3) / 2)
    assert gains(ranks, 10).mean() == pytest.approx(ndcg(ranks, 10))
    none = np.empty(0, np.int64)
    assert hit_rate(none, 10) == ndcg(none, 10) == 0


def test_coverage_counts_each_video_once_and_no_padding() -> None:
    assert coverage(np.array([[0, 1], [1, -1]]), 4) == 0.5
    assert coverage(np.empty((0, 2), np.int64), 4) == 0
    assert coverage(np.empty((0, 2), np.int64), 0) == 0


@pytest.mark.parametrize(("slate", "distance"), [([0, 1], 0), ([0, 2], 1), ([0, 1, 2], 2 / 3)])
def test_equal_videos_have_no_distance_and_orthogonal_ones_one(
    slate: list[int], distance: float
) -> None:
    vectors = np.array([[2.0, 0], [1, 0], [0, 3]])
    assert intra_list_distance(np.array([slate]), vectors) == pytest.approx(distance)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], float)
    labels = np.array([label for _, label in pairs])
    positives, negatives = scores[labels], scores[~labels]
    if not len(positives) or not len(negatives):
        assert math.isnan(auc(scores, labels))
        return
    difference = positives[:, None] - negatives[None]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert auc(scores, labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("probabilities", "happened", "error"),
    [
        ([0.3] * 10, 3, 0),
        ([0.9] * 10, 3, 0.6),
        ([1.0], 1, 0),
        ([], 0, 0),
        ([0.0, 0.0, 0.99, 0.99], 2, 0.995),  # errors of different bins don't cancel
    ],
)
def test_the_calibration_error_is_that_of_the_rates_by_bin(
    probabilities: list[float], happened: int, error: float
) -> None:
    labels = np.arange(len(probabilities)) < happened
    found = expected_calibration_error(np.array(probabilities), labels)
    assert found == pytest.approx(error)


def test_twice_as_many_as_happened_are_predicted_at_a_rate_that_hides_it_from_the_error() -> None:
    labels = np.random.default_rng(0).random((2000, 100)) < 0.003
    probabilities = np.full(labels.shape, 0.006)
    _, low, high = predicted_over_observed(probabilities.sum(1), labels.sum(1))
    assert low < 2 < high
    assert high - low < 0.4
    assert expected_calibration_error(probabilities.ravel(), labels.ravel()) < 0.004


def test_the_interval_of_the_ratio_is_that_of_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    predicted, observed = random.gamma(2.0, 0.4, 300), random.random(300) < 0.8
    _, *interval = predicted_over_observed(predicted, observed)
    drawn = random.integers(0, 300, (4000, 300))
    resampled = predicted[drawn].sum(1) / observed[drawn].sum(1)
    ends = np.quantile(resampled, [0.025, 0.975])
    assert interval == pytest.approx(ends, abs=0.02)
    assert math.isnan(predicted_over_observed(np.ones(3), np.zeros(3))[0])


RANDOM = np.random.default_rng(7)
RANKS = RANDOM.geometric(0.02, 400).astype(np.int64) - 1


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
