import random
from collections.abc import Callable

import pytest

from tests.builders.clock import Clock
from vireo.server.gateway.slate_metrics import Coverage


def keys(count: int, seed: int = 1) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(64) - (1 << 63) for _ in range(count)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def close(estimate: float, count: int) -> bool:
    return abs(estimate - count) <= 0.06 * count  # four standard deviations


@pytest.mark.parametrize("count", [0, 1, 10, 3000, 100_000])
def test_the_estimate_is_near_the_number_of_distinct_videos(
    count: int, clock: Callable[[], float]
) -> None:
    shown, coverage = keys(count), Coverage(clock)
    for start in range(0, count, 10):
        coverage.add(shown[start : start + 10])
    coverage.add(shown[:5000])  # again
    assert close(coverage.estimate(), count)


def test_videos_of_more_than_an_hour_ago_do_not_count(clock: Clock) -> None:
    coverage = Coverage(clock)
    coverage.add(keys(3000, seed=1))
    clock.now += 1800
    coverage.add(keys(1000, seed=2))
    assert close(coverage.estimate(), 4000)
    clock.now += 1801
    assert close(coverage.estimate(), 1000)
    clock.now += 1801
    assert coverage.estimate() == 0


def test_it_counts_on_after_a_pause_of_hours(clock: Clock) -> None:
    coverage = Coverage(clock)
    clock.now += 100_000
    coverage.add(keys(1000))
    assert close(coverage.estimate(), 1000)
