"""What the viewer tower of a release takes for histories up to the longest that it reads.

    vireo bench tower

In this process, on one thread, without the cache of viewers' vectors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.speed.row import Row
from server.candidate.release import CandidateRelease
from server.features.tower_inputs import ATTRIBUTE_LIMIT, GAP_BUCKETS
from server.home import Home

_EVENTS = (20, 50, 100, 200)
_BOUND_MS = {200: 0.8}


@dataclass(frozen=True)
class TowerPlan:
    """How much to do."""

    rounds: int = 5
    runs: int = 200
    """Of each length in each round."""


def measure_tower(home: Home, dataset: str, plan: TowerPlan, console: Console) -> list[Row]:
    """Runs the tower of the newest release over made-up histories.

    Raises:
        VireoError: nothing was trained.
    """
    folder = home.trained_release(dataset)
    release = CandidateRelease.load(folder)
    longest = release.manifest.feature_schema.history_limit
    lengths = [events for events in _EVENTS if events < longest] + [longest]
    took: dict[int, list[float]] = {events: [] for events in lengths}
    with threadpool_limits(1):
        for number in range(1, plan.rounds + 1):
            for events in lengths:
                took[events].append(_milliseconds(release, events, plan.runs))
            console.print(f"round {number} of {plan.rounds} done")
    size = release.manifest.feature_schema.vector_size
    return [
        Row.over_rounds(
            f"viewer tower, {size} dimensions, {events} events, CPU, ms",
            took[events],
            _BOUND_MS.get(events),
        )
        for events in lengths
    ]


def _milliseconds(release: CandidateRelease, events: int, runs: int) -> float:
    """Processor milliseconds of one run, on average."""
    random = np.random.default_rng(events)
    inputs = {
        "history": random.integers(1, len(release.keys) + 1, (1, events)),
        "gaps": random.integers(1, GAP_BUCKETS, (1, events)),
        "asked_gap": random.integers(1, GAP_BUCKETS, 1),
        "lengths": np.array([events]),
        "attributes": np.zeros((1, ATTRIBUTE_LIMIT), np.int64),
    }
    release.tower.run(inputs)  # what is slow only once
    begun = time.process_time()
    for _ in range(runs):
        release.tower.run(inputs)
    return 1000 * (time.process_time() - begun) / runs
