from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vireo.training.evaluation.metrics import (
    auc,
    coverage,
    expected_calibration_error,
    hit_rate,
    intra_list_distance,
    ndcg,
    predicted_over_observed,
    recall,
)


def test_a_hit_is_a_rank_below_k() -> None:
    ranks = np.array([0, 9, 10, 50])

    assert hit_rate(ranks, 10) == 0.5
    assert recall(ranks, 51) == 1.0


def test_ndcg_discounts_by_the_rank() -> None:
    assert ndcg(np.array([0]), 10) == 1.0
    assert ndcg(np.array([1, 10]), 10) == pytest.approx(1 / math.log2(3) / 2)


def test_no_held_out_video_measures_zero() -> None:
    assert hit_rate(np.empty(0, np.int64), 10) == 0
    assert ndcg(np.empty(0, np.int64), 10) == 0


def test_coverage_counts_each_video_once_and_no_padding() -> None:
    assert coverage(np.array([[0, 1], [1, -1]]), 4) == 0.5
    assert coverage(np.empty((0, 2), np.int64), 4) == 0
    assert coverage(np.empty((0, 2), np.int64), 0) == 0


def test_equal_videos_have_no_distance_and_orthogonal_ones_one() -> None:
    vectors = np.array([[2.0, 0], [1, 0], [0, 3]])

    assert intra_list_distance(np.array([[0, 1]]), vectors) == pytest.approx(0)
    assert intra_list_distance(np.array([[0, 2]]), vectors) == pytest.approx(1)
    assert intra_list_distance(np.array([[0, 1, 2]]), vectors) == pytest.approx(2 / 3)


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


def test_probabilities_that_come_true_are_calibrated() -> None:
    labels = np.array([True] * 3 + [False] * 7)

    assert expected_calibration_error(np.full(10, 0.3), labels) == pytest.approx(0)
    assert expected_calibration_error(np.full(10, 0.9), labels) == pytest.approx(0.6)
    assert expected_calibration_error(np.array([1.0]), np.array([True])) == pytest.approx(0)
    assert expected_calibration_error(np.empty(0), np.empty(0, bool)) == 0


def test_errors_of_different_bins_do_not_cancel() -> None:
    probabilities = np.array([0.0, 0.0, 0.99, 0.99])
    labels = np.array([True, True, False, False])

    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.995)


def test_twice_as_many_as_happened_are_predicted_at_a_rate_that_hides_it_from_the_error() -> None:
    random = np.random.default_rng(0)
    labels = random.random((2000, 100)) < 0.003
    probabilities = np.full(labels.shape, 0.006)

    ratio = predicted_over_observed(probabilities.sum(1), labels.sum(1))

    assert ratio.low < 2 < ratio.high
    assert ratio.high - ratio.low < 0.4
    assert expected_calibration_error(probabilities.ravel(), labels.ravel()) < 0.004


def test_the_interval_of_the_ratio_is_that_of_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    predicted = random.gamma(2.0, 0.4, 300)
    observed = random.random(300) < 0.8

    ratio = predicted_over_observed(predicted, observed)

    drawn = random.integers(0, 300, (4000, 300))
    resampled = predicted[drawn].sum(1) / observed[drawn].sum(1)
    assert (ratio.low, ratio.high) == pytest.approx(
        np.quantile(resampled, [0.025, 0.975]), abs=0.02
    )


def test_without_observed_events_there_is_no_ratio() -> None:
    assert math.isnan(predicted_over_observed(np.ones(3), np.zeros(3)).value)
