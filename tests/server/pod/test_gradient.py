from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from server.pod.gradient import MIN_CALLS, REST, GradientLimit
from server.pod.turns import MAX_WAITING, MAX_WAITING_HANGING

MOST = 100


class Calls:
    """Calls under a limit, on a clock that is moved by hand."""

    def __init__(self, limit: GradientLimit | None = None) -> None:
        self.limit = limit or GradientLimit(MOST)
        self.now = 0.0

    def intervals(
        self,
        count: int,
        took: float | None,
        *,
        others: float | None = None,
        refused: int = 0,
        under_way: int = 1,
    ) -> float:
        """Three calls end in each of some intervals, one of them like `others`; the limit then."""
        for _ in range(count):
            self.limit.admits(self.now, under_way - 1)
            for _ in range(refused):
                self.limit.refused()
            for number in range(3):
                self.now += 0.02
                self.limit.ended(self.now, others if others and number == 1 else took)
        return self.limit.calls


def test_at_rest_some_calls_may_come_at_once_and_no_more() -> None:
    limit = GradientLimit(MOST)
    assert [limit.admits(0, under_way) for under_way in range(REST + 2)] == [True] * REST + [
        False,
        False,
    ]


def test_the_limit_grows_in_steps_while_calls_are_fast_and_falls_when_unused() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    assert calls.limit.calls == REST
    grown = [calls.intervals(1, 0.01, under_way=MOST + 1) for _ in range(10)]
    assert grown == sorted(grown)
    assert grown[0] < 2 * REST
    assert grown[-1] == MOST, "and never more than the most"
    assert calls.intervals(200, 0.01) == REST


def test_calls_that_are_slow_without_a_flood_are_not_refused() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    assert calls.intervals(50, 0.2, under_way=3) >= REST


def test_in_a_flood_of_slow_calls_hardly_any_are_let_in() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    flooded = [calls.intervals(1, 0.08, refused=9, under_way=8) for _ in range(3)]
    assert flooded[0] <= REST / 4 + 1e-9, "at once, and by as much as they are too slow"
    assert flooded[-1] == MIN_CALLS


def test_in_a_flood_as_many_are_let_in_as_stay_quick() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    calls.intervals(3, 0.08, refused=9, under_way=8)
    assert calls.intervals(10, 0.015, refused=9, under_way=2) > 2 * MIN_CALLS


def test_a_few_refused_calls_are_no_flood() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    for _ in range(20):
        calls.intervals(1, 0.2, refused=1, under_way=3)
        assert calls.intervals(3, 0.2, under_way=3) >= REST - 1


def test_after_a_flood_the_limit_comes_back() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    calls.intervals(20, 0.08, refused=9, under_way=8)
    assert calls.limit.calls == MIN_CALLS
    began = calls.now
    while calls.limit.calls < REST:
        calls.intervals(1, 0.012)
    assert calls.now - began < 5


def test_the_minimum_latency_counts_while_other_calls_hang() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    assert calls.intervals(20, 0.01, others=0.25, refused=9, under_way=8) > REST


def test_calls_that_hang_keep_nobody_out() -> None:
    limit = GradientLimit(MOST)
    assert not limit.admits(0, REST)
    assert limit.admits(0, REST, hanging=1)
    assert limit.admits(0, MOST - 1, hanging=MOST - 1)
    assert not limit.admits(0, MOST, hanging=MOST), "but there is a most of all"


def test_a_call_far_slower_than_fast_ones_counts_as_hanging() -> None:
    calls = Calls()
    assert calls.limit.hanging == math.inf, "nobody knows yet what is long"
    calls.intervals(1, 0.002)
    assert calls.limit.hanging == 0.1
    calls = Calls()
    calls.intervals(20, 0.05, others=9.0)
    assert calls.limit.hanging == pytest.approx(0.5, rel=0.01)
    calls.intervals(1, 0.25, under_way=3)
    assert calls.limit.hanging == math.inf, "all are slow"
    calls.intervals(1, 0.05)
    assert calls.limit.hanging == pytest.approx(0.5, rel=0.01)
    calls.intervals(3, 0.05, refused=9, under_way=8)
    assert calls.limit.hanging == math.inf, "there is a flood"


def test_an_interval_of_a_few_hanging_calls_is_no_sample() -> None:
    calls = Calls()
    calls.intervals(20, 0.01)
    calls.intervals(20, 0.25, under_way=3)
    assert calls.limit.hanging == pytest.approx(0.1, rel=0.01)
    calls.intervals(60, 0.25, under_way=3)
    assert calls.limit.hanging == math.inf


def test_where_no_call_ends_at_all_more_are_let_in() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    assert not calls.limit.admits(calls.now + 0.1, REST)
    assert all(calls.limit.admits(calls.now + 0.4, under_way) for under_way in range(REST, MOST)), (
        "their number isn't what they wait for"
    )
    assert not calls.limit.admits(calls.now + 0.4, MOST)


def test_responses_that_are_no_samples_change_nothing_in_an_overload() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    assert calls.intervals(5, None, under_way=MOST + 1) > REST
    calls = Calls()
    calls.intervals(5, 0.01)
    assert calls.intervals(20, None, refused=9, under_way=8) == pytest.approx(REST, rel=0.3)


def test_a_lasting_latency_without_load_becomes_the_baseline() -> None:
    calls = Calls()
    calls.intervals(5, 0.01)
    calls.intervals(10, 0.08, refused=9, under_way=8)
    assert calls.limit.calls == MIN_CALLS
    # As they take twice as long for a reason of their own, three times as long would be a queue.
    grown = max(calls.intervals(1, 0.03, refused=9, under_way=1) for _ in range(200))
    assert grown > MIN_CALLS
    assert calls.limit.usual == pytest.approx(0.015, rel=0.1)


@dataclass(frozen=True)
class Simulated:
    """What became of simulated calls; times in seconds."""

    took: tuple[float, ...]
    """From coming to the end, waiting included."""
    refused: float
    """Share of all calls."""
    seconds: float

    @property
    def p99(self) -> float:
        return float(np.percentile(self.took, 99))


def simulate(load: float, seconds: float = 30.0) -> Simulated:
    """Calls of some 10 ms on two processors that all of them share, after a while of light load.

    They wait as in `Turns`. `load` is in times of what the processors can do.
    """
    chance = random.Random(1)
    limit = GradientLimit(500)
    step, processors, work, light = 0.0005, 2, 0.01, 5.0
    waiting: deque[float] = deque()  # when each came
    running: list[tuple[float, float, float]] = []  # when it came and began, work left
    took: list[float] = []
    came = refused = 0
    for tick in range(round((light + seconds) / step)):
        now = tick * step
        measured = now >= light
        rate = (load if measured else 0.2) * processors / work
        if chance.random() < rate * step:
            came += measured
            if limit.flooded or len(waiting) >= MAX_WAITING:
                if limit.admits(now, len(running)):
                    running.append((now, now, work * chance.uniform(0.7, 1.3)))
                else:
                    limit.refused()
                    refused += measured
            else:
                waiting.append(now)
        progress = step * min(1.0, processors / len(running)) if running else 0.0
        after = [(at, begun, left - progress) for at, begun, left in running]
        running = [each for each in after if each[2] > 0]
        for at, begun, left in after:
            if left <= 0:
                limit.ended(now, now - begun)
                if at >= light:
                    took.append(now - at)
        if limit.flooded:
            for _ in waiting:
                limit.refused()
            refused += len(waiting) * measured
            waiting.clear()
        while waiting and limit.admits(now, len(running)):
            running.append((waiting.popleft(), now, work * chance.uniform(0.7, 1.3)))
    return Simulated(tuple(took), refused / max(came, 1), seconds)


def test_four_times_the_load_keeps_p99_within_three_times_that_of_a_light_load() -> None:
    light, flooded = simulate(0.2), simulate(4.0)
    assert light.refused == 0
    assert flooded.p99 < 3 * light.p99
    assert flooded.refused == pytest.approx(0.75, abs=0.1), "the processors are kept busy"


@pytest.mark.parametrize("load", [0.7, 0.8])
def test_a_load_that_can_be_worked_off_is_not_refused(load: float) -> None:
    assert simulate(load).refused == 0


def test_a_load_that_is_hardly_too_much_is_worked_off_as_far_as_it_can_be() -> None:
    slightly = simulate(1.2)
    assert len(slightly.took) / slightly.seconds > 0.8 * 200
    assert math.isfinite(slightly.p99)


@pytest.mark.parametrize("seed", range(8))
def test_while_a_host_hangs_that_half_of_the_calls_meet_nobody_is_refused(seed: int) -> None:
    chance, limit = random.Random(seed), GradientLimit(500)
    waiting, running, step = 0, list[tuple[float, float]](), 0.001  # when each began and ends

    def hanging(now: float) -> int:
        return sum(begun < now - limit.hanging for begun, _ in running)

    def begin(now: float) -> None:
        lasts = chance.uniform(0.006, 0.016)
        cut = 5 <= now < 5.8 and chance.random() < 0.5
        running.append((now, now + lasts + 0.5 * cut))

    for tick in range(8000):
        now = tick * step
        if chance.random() < 40 * step:
            if not waiting and limit.admits(now, len(running), hanging(now)):
                begin(now)
            else:
                assert not limit.flooded
                assert waiting < (MAX_WAITING_HANGING if hanging(now) else MAX_WAITING)
                waiting += 1
        for each in [each for each in running if each[1] <= now]:
            running.remove(each)
            limit.ended(now, now - each[0])
            while waiting and limit.admits(now, len(running), hanging(now)):
                waiting -= 1
                begin(now)
