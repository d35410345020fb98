"""What the index of a release finds of the exact nearest videos, and what that takes.

    vireo bench search

Only a catalogue that isn't searched exactly has something to tell: the figures are of one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.speed.row import Row
from server.candidate.release import CandidateRelease
from server.gateway.features import FeatureReader
from server.home import Home
from training.features.watches import load_watches

NEIGHBOURS = 500
_RECALL = 0.95
_OVER_EXACT = 1 / 20
_READ_SECONDS = 10.0

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SearchPlan:
    """How much to do."""

    rounds: int = 5
    viewers: int = 500
    """Whose vectors are searched with, others than the index was made with where there are."""


def measure_search(home: Home, dataset: str, plan: SearchPlan, console: Console) -> list[Row]:
    """Searches the newest release's index, and exactly, in turns.

    Raises:
        VireoError: nothing was trained.
    """
    folder = home.trained_release(dataset)
    release = CandidateRelease.load(folder)
    if not release.manifest.index.cells:
        console.print(f"{len(release.keys):,} videos are searched exactly: nothing to compare")
        return []
    everyone = load_watches(home, dataset)["viewer_id"].drop_duplicates()
    viewers = everyone.sample(min(plan.viewers, len(everyone)), random_state=1).tolist()
    queries = _viewer_vectors(release, home.features(dataset), viewers)
    # In float32, which is what an exact index has.
    exact = faiss.IndexFlatIP(queries.shape[1])
    exact.add(np.asarray(release.vectors, np.float32))
    with threadpool_limits(1):
        return _rows(release, exact, queries, plan, console)


def _rows(
    release: CandidateRelease,
    exact: faiss.IndexFlatIP,
    queries: Float32Array,
    plan: SearchPlan,
    console: Console,
) -> list[Row]:
    none = np.empty(0, np.int64)
    neighbours = min(NEIGHBOURS, len(release.keys))

    def approximately(query: Float32Array) -> npt.NDArray[np.int64]:
        return release.index.nearest(query, neighbours, none)

    def exactly(query: Float32Array) -> npt.NDArray[np.int64]:
        rows: npt.NDArray[np.int64] = exact.search(query[None], neighbours)[1][0]
        return rows

    hits = [len(np.intersect1d(approximately(query), exactly(query))) for query in queries]
    ratios, search = [], []
    for number, part in enumerate(np.array_split(queries, plan.rounds), start=1):
        taken = _seconds(approximately, part)
        ratios.append(taken / _seconds(exactly, part))
        search.append(1000 * taken)
        console.print(f"round {number} of {plan.rounds} done")
    catalogue = f"{len(release.keys):,} videos"
    return [
        Row(
            f"recall@{neighbours} of the index, {catalogue}",
            float(np.mean(hits)) / neighbours,
            bound=_RECALL,
            at_least=True,
        ),
        Row.over_rounds(f"search over exact search, CPU, {catalogue}", ratios, _OVER_EXACT),
        Row.over_rounds(f"search, CPU, {catalogue}, ms", search),
    ]


def _viewer_vectors(
    release: CandidateRelease, features: Path, viewers: Sequence[str]
) -> Float32Array:
    """Their vectors by the viewer tower, with the features as they are in the store."""
    # Feast imports torch where it is installed: seconds for nothing.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    reader = FeatureReader(features, _READ_SECONDS)
    return np.stack([release.viewer_vector(reader.read(viewer)) for viewer in viewers])


def _seconds(
    search: Callable[[Float32Array], npt.NDArray[np.int64]], queries: Float32Array
) -> float:
    """Processor seconds of one search, on average."""
    begun = time.process_time()
    for query in queries:
        search(query)
    return (time.process_time() - begun) / len(queries)
