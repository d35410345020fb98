"""Distinct videos that slates had within an hour, counted to a few percent."""

import random

import pytest

from tests.builders.clock import Clock
from vireo.server.gateway.slate_metrics import Coverage


def keys(count: int, seed: int = 1) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(64) - (1 << 63) for _ in range(count)]


def near(count: int) -> object:
    return pytest.approx(count, rel=0.06)  # four standard deviations


@pytest.mark.parametrize("count", [0, 1, 10, 3000, 100_000])
def test_the_estimate_is_near_the_number_of_distinct_videos(count: int) -> None:
    shown, coverage = keys(count), Coverage(Clock())
    for start in range(0, count, 10):
        coverage.add(shown[start : start + 10])
    coverage.add(shown[:5000])  # again
    assert coverage.estimate() == near(count)


def test_videos_of_more_than_an_hour_ago_do_not_count() -> None:
    clock = Clock()
    coverage = Coverage(clock)
    coverage.add(keys(3000, seed=1))
    clock.now += 1800
    coverage.add(keys(1000, seed=2))
    assert coverage.estimate() == near(4000)
    clock.now += 1801
    assert coverage.estimate() == near(1000)
    clock.now += 100_000
    assert coverage.estimate() == 0
    coverage.add(keys(1000))
    assert coverage.estimate() == near(1000)
