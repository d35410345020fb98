"""What the index of a release finds of the exact nearest videos, and what that takes.

Only a catalogue that isn't searched exactly has something to tell: the figures are of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import faiss
import numpy as np
import numpy.typing as npt
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.speed.asked import feature_reader
from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from server.candidate.release import CandidateRelease
from server.home import Home
from training.features.watches import load_watches

NEIGHBOURS = 500
_RECALL = 0.95
_OVER_EXACT = 1 / 20

Float32Array = npt.NDArray[np.float32]
Search = Callable[[Float32Array], npt.NDArray[np.int64]]


def measure_search(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Search the newest release's index, and exactly, in turns.

    Raises:
        VireoError: nothing was trained.
    """
    release = CandidateRelease.load(home.trained_release(dataset))
    if not release.manifest.index.cells:
        console.print(f"{len(release.keys):,} videos are searched exactly: nothing to compare")
        return []
    reader = feature_reader(home.features(dataset))
    everyone = load_watches(home, dataset)["viewer_id"].drop_duplicates()
    viewers = everyone.sample(min(plan.sample, len(everyone)), random_state=1)
    queries = np.stack([release.viewer_vector(reader.read(viewer)) for viewer in viewers])
    # In float32, which is what an exact index has.
    exact = faiss.IndexFlatIP(queries.shape[1])
    exact.add(np.asarray(release.vectors, np.float32))
    none, neighbours = np.empty(0, np.int64), min(NEIGHBOURS, len(release.keys))

    def approximately(query: Float32Array) -> npt.NDArray[np.int64]:
        return release.index.nearest(query, neighbours, none)

    def exactly(query: Float32Array) -> npt.NDArray[np.int64]:
        rows: npt.NDArray[np.int64] = exact.search(query[None], neighbours)[1][0]
        return rows

    catalogue, figures = f"{len(release.keys):,} videos", Figures(console)
    with threadpool_limits(1):
        hits = [len(np.intersect1d(approximately(query), exactly(query))) for query in queries]
        parts = np.array_split(queries, plan.rounds)
        for number in figures.rounds(plan.rounds):
            part = parts[number - 1]
            taken = _seconds(approximately, part)
            ratio = taken / _seconds(exactly, part)
            figures.add(f"search over exact search, CPU, {catalogue}", ratio, _OVER_EXACT)
            figures.add(f"search, CPU, {catalogue}, ms", 1000 * taken)
    recall = float(np.mean(hits)) / neighbours
    found = f"recall@{neighbours} of the index, {catalogue}"
    return [Row(found, recall, bound=_RECALL, at_least=True), *figures.rows()]


def _seconds(search: Search, queries: Float32Array) -> float:
    """Return the processor seconds of one search, on average."""
    begun = time.process_time()
    for query in queries:
        search(query)
    return (time.process_time() - begun) / len(queries)
