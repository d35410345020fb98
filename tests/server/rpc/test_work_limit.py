"""The limit, held against a simulated worker: one server, calls that come by chance."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest

from server.rpc.errors import ShedReason
from server.rpc.work_limit import WorkLimit

SECONDS = 30.0


@dataclass(frozen=True)
class Simulated:
    """What became of the calls of a run; times in seconds."""

    taken: tuple[float, ...]
    """From joining to the end of the work."""
    shed: float
    """Share of all calls."""

    @property
    def p99(self) -> float:
        return float(np.percentile(self.taken, 99))


def simulate(work: float, load: float, spread: float = 0.2) -> Simulated:
    """Runs work of `work` seconds on average, at `load` times what can be worked off."""
    chance = random.Random(1)
    limit = WorkLimit()
    ends: list[tuple[float, float, float, float]] = []  # end, begin, joined, took
    taken: list[float] = []
    now = free = 0.0
    calls = shed = 0
    while now < SECONDS:
        now += chance.expovariate(load / work)
        while ends and ends[0][0] <= now:
            end, begin, joined, took = heapq.heappop(ends)
            limit.queued -= 1
            limit.ran(took)
            limit.queue.observe(end, begin - joined)
            taken.append(end - joined)
        calls += 1
        if limit.refusal(now, math.inf) is not None:
            shed += 1
            continue
        limit.queued += 1
        took = work * chance.lognormvariate(-(spread**2) / 2, spread)
        begin = max(now, free)
        free = begin + took
        heapq.heappush(ends, (free, begin, now, took))
    return Simulated(tuple(taken), shed / calls)


@pytest.mark.parametrize("work", [0.002, 0.005, 0.02])
def test_four_times_the_load_keeps_p99_within_three_times_that_of_a_quiet_worker(
    work: float,
) -> None:
    quiet, flooded = simulate(work, 0.25), simulate(work, 4.0)
    assert quiet.shed == 0
    assert flooded.p99 < 3 * quiet.p99
    assert flooded.shed == pytest.approx(0.75, abs=0.02), "the worker is kept busy"


@pytest.mark.parametrize("work", [0.0005, 0.002, 0.005])
def test_a_load_that_can_be_worked_off_is_not_shed(work: float) -> None:
    assert simulate(work, 0.5).shed == 0
    assert simulate(work, 0.7).shed < 0.005


def test_faster_work_lets_more_calls_wait() -> None:
    limit = WorkLimit()
    assert math.isinf(limit.calls)
    limit.ran(0.010)
    assert limit.calls == pytest.approx(10)
    for _ in range(200):
        limit.ran(0.001)
    assert limit.calls == pytest.approx(100, rel=0.02)


def test_a_call_is_refused_whose_deadline_passes_before_its_turn() -> None:
    limit = WorkLimit()
    limit.ran(0.010)
    limit.queued = 4
    assert limit.refusal(0, left=0.05) is None
    assert limit.refusal(0, left=0.03) is ShedReason.DEADLINE
    limit.queued = 11
    assert limit.refusal(0, left=1) is ShedReason.QUEUE


def test_an_idle_worker_takes_a_call_whatever_was_measured_before() -> None:
    limit = WorkLimit()
    limit.ran(60)
    assert limit.refusal(0, left=0.001) is None


def test_work_that_hangs_stops_the_queue_before_its_end_is_known() -> None:
    limit = WorkLimit()
    limit.ran(0.001)
    limit.queued, limit.running_since = 1, 10.0
    assert limit.refusal(10.05, left=1) is None
    assert limit.refusal(10.2, left=1) is ShedReason.QUEUE
