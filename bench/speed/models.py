"""The cost of a release's models by themselves, in this process and on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import faiss
import numpy as np
import numpy.typing as npt
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.rows import Figures, Row
from bench.speed.filtered import filtered_rows
from bench.speed.plan import SpeedPlan
from bench.speed.questions import read_viewers
from vireo.server.errors import VireoError
from vireo.server.features.model_inputs import ATTRIBUTE_LIMIT, GAP_BUCKETS
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.home import Home
from vireo.server.pod.viewer import decode_viewer
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.training.features.watches import load_watches

_EVENTS = (20, 50, 100, 200)
_MAX_TOWER_MS = {200: 0.8}
_NEIGHBOURS = 500
_MIN_RECALL = 0.95
_MAX_OVER_EXACT = 1 / 20

Float32Array = npt.NDArray[np.float32]
Search = Callable[[Float32Array], npt.NDArray[np.int64]]


def measure_tower(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Run the viewer tower of the newest release over made-up histories of several lengths."""
    release = CandidateRelease.load(home.trained_release(dataset))
    schema, figures = release.manifest.feature_schema, Figures(console)
    longest = schema.history_limit
    lengths = [events for events in _EVENTS if events < longest] + [longest]
    with threadpool_limits(1):
        for number in figures.rounds(plan.rounds):
            for events in lengths:
                took = _tower_ms(release, events, plan.of_round(number).alone)
                measure = f"viewer tower, {schema.vector_size} dimensions, {events} events, CPU, ms"
                figures.add(measure, took, _MAX_TOWER_MS.get(events))
    return figures.rows()


def _tower_ms(release: CandidateRelease, events: int, runs: int) -> float:
    """Return the mean processor milliseconds of a run."""
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


def measure_search(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Search the index of the newest release, and exactly, in turns; and by filters.

    There are no rows if the index is exact, as those of small catalogues are.
    """
    release = CandidateRelease.load(home.trained_release(dataset))
    if not release.manifest.index.cells:
        console.print(f"{len(release.keys):,} videos are searched exactly: nothing to compare")
        return []
    viewers = _sampled(home, dataset, plan)
    filtered = _filtered_rows(release, viewers, plan, console)
    return [*_unfiltered_rows(release, viewers, plan, console), *filtered]


def measure_filtered_search(
    home: Home, dataset: str, plan: SpeedPlan, console: Console
) -> list[Row]:
    """Search the index of the newest release by filters of several selectivities.

    Raises:
        VireoError: nothing was trained, or the catalogue is so small that its index is exact.
    """
    release = CandidateRelease.load(home.trained_release(dataset))
    if not release.manifest.index.cells:
        raise VireoError(
            f"the {len(release.keys):,} videos of {dataset} are searched exactly; make a large "
            "catalogue with: make bench-data"
        )
    return _filtered_rows(release, _sampled(home, dataset, plan), plan, console)


def _filtered_rows(
    release: CandidateRelease,
    viewers: Sequence[ViewerFeatures],
    plan: SpeedPlan,
    console: Console,
) -> list[Row]:
    with threadpool_limits(1):
        return filtered_rows(release, viewers, min(_NEIGHBOURS, len(release.keys)), plan, console)


def _sampled(home: Home, dataset: str, plan: SpeedPlan) -> list[ViewerFeatures]:
    """Return some viewers, right after their last watch: made-up watches are of years ago."""
    everyone = load_watches(home, dataset)["viewer_id"].drop_duplicates()
    viewers = everyone.sample(min(plan.sample, len(everyone)), random_state=1)
    known = read_viewers(home.features(dataset), viewers)
    return [replace(decode_viewer(viewer), asked_at=0) for viewer in known]


def _unfiltered_rows(
    release: CandidateRelease,
    viewers: Sequence[ViewerFeatures],
    plan: SpeedPlan,
    console: Console,
) -> list[Row]:
    """Search without a filter, and exactly, in turns."""
    queries = np.stack([release.viewer_vector(viewer) for viewer in viewers])
    # In float32, which is what an exact index has.
    exact = faiss.IndexFlatIP(queries.shape[1])
    exact.add(np.asarray(release.vectors, np.float32))
    neighbours = min(_NEIGHBOURS, len(release.keys))

    def approximately(query: Float32Array) -> npt.NDArray[np.int64]:
        return release.index.nearest(query, neighbours, None)

    def exactly(query: Float32Array) -> npt.NDArray[np.int64]:
        rows: npt.NDArray[np.int64] = exact.search(query[None], neighbours)[1][0]
        return rows

    catalogue, figures = f"{len(release.keys):,} videos", Figures(console)
    with threadpool_limits(1):
        hits = [len(np.intersect1d(approximately(query), exactly(query))) for query in queries]
        parts = np.array_split(queries, plan.rounds)
        for number in figures.rounds(plan.rounds):
            part = parts[number - 1]
            taken = _search_seconds(approximately, part)
            ratio = taken / _search_seconds(exactly, part)
            figures.add(f"search over exact search, CPU, {catalogue}", ratio, _MAX_OVER_EXACT)
            figures.add(f"search, CPU, {catalogue}, ms", 1000 * taken)
    recall = float(np.mean(hits)) / neighbours
    found = f"recall@{neighbours} of the index, {catalogue}"
    return [Row(found, recall, bound=_MIN_RECALL, at_least=True), *figures.rows()]


def _search_seconds(search: Search, queries: Float32Array) -> float:
    """Return the mean processor seconds of a search."""
    begun = time.process_time()
    for query in queries:
        search(query)
    return (time.process_time() - begun) / len(queries)
