"""How the number of candidates shrinks and recovers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.gateway.quality import Quality


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_number_of_candidates_starts_full_and_never_falls_below_a_page() -> None:
    quality = Quality(100, Clock())
    assert quality.count(10, 300) == 300
    assert quality.count(500, 300) == 500


def test_one_late_call_among_timely_ones_changes_nothing() -> None:
    quality = Quality(100, Clock())
    for _ in range(20):
        quality.late()
        for _ in range(15):
            quality.timely()
    assert quality.count(10, 300) == 300


def test_late_calls_shrink_the_count_by_a_share_at_a_time_down_to_the_least() -> None:
    clock = Clock()
    quality = Quality(100, clock)
    counts = []
    for _ in range(12):
        for _ in range(5):
            quality.late()
        counts.append(quality.count(10, 300))
        clock.now += 0.25
    assert counts[0] == 210
    assert all(after <= before for before, after in pairwise(counts))
    assert counts[-1] == 100


def test_a_burst_of_late_calls_is_one_step() -> None:
    quality = Quality(100, Clock())
    for _ in range(1000):
        quality.late()
    assert quality.count(10, 300) == 210


def test_every_second_call_late_is_late_often() -> None:
    clock = Clock()
    quality = Quality(100, clock)
    for _ in range(40):
        quality.late()
        quality.timely()
        clock.now += 0.05
    assert quality.count(10, 300) < 150


def test_the_count_grows_steadily_once_calls_are_timely_and_is_whole_within_five_seconds() -> None:
    clock = Clock()
    quality = Quality(1, clock)
    for _ in range(40):
        quality.late()
        quality.late()
        clock.now += 0.25
    small = quality.count(1, 2000)
    assert small < 500
    counts = [small]
    for _ in range(10):
        clock.now += 0.5
        quality.timely()
        counts.append(quality.count(1, 2000))
    steps = [after - before for before, after in pairwise(counts)]
    assert steps[0] == steps[1] == steps[2] == 250
    assert counts[-1] == 2000
    assert quality.factor() == 1


def test_a_page_is_filled_however_slow_pods_are() -> None:
    clock = Clock()
    quality = Quality(100, clock)
    for _ in range(40):
        quality.late()
        clock.now += 0.25
    assert quality.count(10, 300) <= 120
    assert quality.count(200, 300) == 200


@pytest.mark.parametrize("candidates", [1, 50, 100])
def test_a_count_that_is_small_already_stays(candidates: int) -> None:
    quality = Quality(100, Clock())
    for _ in range(10):
        quality.late()
    assert quality.count(1, candidates) == candidates
