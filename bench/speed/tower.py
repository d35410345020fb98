"""What the viewer tower of a release takes for histories up to the longest that it reads.

In this process, on one thread, without the cache of viewers' vectors.
"""

from __future__ import annotations

import time

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from server.candidate.release import CandidateRelease
from server.features.tower_inputs import ATTRIBUTE_LIMIT, GAP_BUCKETS
from server.home import Home

_EVENTS = (20, 50, 100, 200)
_BOUND_MS = {200: 0.8}


def measure_tower(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Run the tower of the newest release over made-up histories.

    Raises:
        VireoError: nothing was trained.
    """
    release = CandidateRelease.load(home.trained_release(dataset))
    schema, figures = release.manifest.feature_schema, Figures(console)
    longest = schema.history_limit
    lengths = [events for events in _EVENTS if events < longest] + [longest]
    with threadpool_limits(1):
        for number in figures.rounds(plan.rounds):
            for events in lengths:
                took = _milliseconds(release, events, plan.of_round(number).alone)
                measure = f"viewer tower, {schema.vector_size} dimensions, {events} events, CPU, ms"
                figures.add(measure, took, _BOUND_MS.get(events))
    return figures.rows()


def _milliseconds(release: CandidateRelease, events: int, runs: int) -> float:
    """Return the processor milliseconds of one run, on average."""
    random = np.random.default_rng(events)
    inputs = {
        "history": random.integers(1, len(release.keys) + 1, (1, events)),
        "gaps": random.integers(1, GAP_BUCKETS, (1, events)),
        "asked_gap": random.integers(1, GAP_BUCKETS, 1),
        "lengths": np.array([events]),
        "attributes": np.zeros((1, ATTRIBUTE_LIMIT), np.int64),
    }
    begun = time.process_time()
    for _ in range(runs):
        release.tower.run(inputs)
    return 1000 * (time.process_time() - begun) / runs
