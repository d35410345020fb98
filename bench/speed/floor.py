"""The floor: what the models of a release take, in one process and without a call between.

Viewer tower, search, gathering the ranking model's inputs, ranking, and the ids of the best: the
minimum work for a ranked page. `pipelines` is all that the two services do between their calls:
sources, filters, quotas and diversity, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bench.process import pin
from vireo.server.candidate.service import decode
from vireo.server.errors import VireoError
from vireo.server.features.ranking_inputs import ranking_inputs, retrieval_features
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.ranking.pipeline import RankedCandidates, RankingPipeline, RankingQuery
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.pipeline import (
    SCORERS,
    SOURCES,
    CandidatePipeline,
    CandidateQuery,
)
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.v1 import candidate_pb2

Answer: TypeAlias = Callable[[], list[str]]
"""Answers one request by a page of ids, best first."""

_ways: dict[str, list[Answer]] = {}
"""Set in the processes of Floor only."""


@dataclass(frozen=True)
class InProcess:
    """Both halves of a release in this process."""

    candidate: CandidatePipeline
    ranking: RankingPipeline

    @staticmethod
    def load(folder: Path) -> InProcess:
        """Load a release from its folder."""
        return InProcess(
            CandidatePipeline(CandidateRelease.load(folder)),
            RankingPipeline(RankingRelease.load(folder)),
        )

    def models(self, query: CandidateQuery, page: int) -> list[str]:
        """Return the best of the nearest unwatched videos by the ranking model."""
        asked = Retrieval.of(self.candidate.release, query)
        found = SOURCES[0].propose(asked)
        scores = {
            name: column for each in SCORERS for name, column in each.score(asked, found).items()
        }
        retrieval = retrieval_features(scores, found.source_masks)
        return self._best(query.viewer, asked.history_rows, found.rows, retrieval, page)

    def ranking_query(self, query: CandidateQuery, page: int) -> RankingQuery:
        """Return what the ranking service gets once the candidate service has answered."""
        found = self.candidate.retrieve(query)
        return RankingQuery(
            viewer=query.viewer,
            keys=found.keys,
            scores=found.scores,
            source_masks=found.source_masks,
            page_size=page,
            seed_key=query.seed_key,
        )

    def rank_raw(self, query: RankingQuery) -> list[str]:
        """Return the best candidates by the ranking model: gather, one run, and their ids."""
        ranker = self.ranking.release
        rows = ranker.rows.find(query.keys)
        history = ranker.rows.find(query.viewer.history_keys)
        retrieval = retrieval_features(query.scores, query.source_masks)
        return self._best(query.viewer, history[history >= 0], rows, retrieval, query.page_size)

    def _best(
        self,
        viewer: ViewerFeatures,
        history: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        retrieval: npt.NDArray[np.float32],
        page: int,
    ) -> list[str]:
        ranker = self.ranking.release
        inputs = ranking_inputs(
            viewer, history, rows, retrieval, ranker.table, ranker.vocabulary, ranker.context
        )
        outputs = ranker.ranker.run(inputs)[0]
        names = ranker.manifest.feature_schema.tasks
        tasks = {name: outputs[:, place] for place, name in enumerate(names)}
        best = rows[np.argsort(-ranker.manifest.score_weights.combined(tasks))[:page]]
        return [ranker.ids[row] for row in best.tolist()]

    def pipelines(self, query: CandidateQuery, page: int) -> list[str]:
        """Return the ids of the slate that the two services make."""
        ids = self.ranking.release.ids
        return [ids[row] for row in self.slate(query, page).rows.tolist()]

    def slate(self, query: CandidateQuery, page: int) -> RankedCandidates:
        """Return that slate with its scores."""
        return self.ranking.rank(self.ranking_query(query, page))


@dataclass(frozen=True)
class Timing:
    """Time of requests, one after the other."""

    cpu: float
    """Mean processor seconds of a request."""
    p50: float
    """Median seconds of a request."""


class Floor:
    """Processes that answer requests by themselves and time it. Use it as a context."""

    def __init__(
        self,
        folder: Path,
        requests: Sequence[bytes],
        page: int,
        *,
        processes: int = 1,
        cores: Collection[int] = (),
    ) -> None:
        """Prepare the processes, which start with the first request.

        Args:
            folder: of the release.
            requests: RetrieveCandidatesRequests, which are answered in turn.
            page: videos of each answer.
            processes: maximum number that answer at a time.
            cores: where they run; anywhere if empty.
        """
        self._pool = ProcessPoolExecutor(
            processes, get_context("spawn"), _load, (folder, list(requests), page, cores)
        )

    def __enter__(self) -> Floor:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self._pool.shutdown()

    async def timed(self, way: str, requests: int, processes: int = 1) -> Timing:
        """Return the time of a request if some processes answer `requests` together.

        Args:
            way: `models`, `pipelines`, or `rank`.
            requests: of all processes.
            processes: how many answer at a time.

        Raises:
            VireoError: a process has ended; its standard error has the reason.
        """
        share = requests // processes
        submitted = [self._pool.submit(_timed, way, share) for _ in range(processes)]
        try:
            timings = [await asyncio.wrap_future(each) for each in submitted]
        except BrokenProcessPool as error:
            raise VireoError("the process that measures the floor has ended") from error
        return Timing(
            float(np.mean([each.cpu for each in timings])),
            float(np.median([each.p50 for each in timings])),
        )


def _load(folder: Path, bodies: list[bytes], page: int, cores: Collection[int]) -> None:
    """Prepare a process of Floor."""
    if cores:
        pin(cores)
    threadpool_limits(1)  # as in pods: more threads would only compete for the cores
    parse = candidate_pb2.RetrieveCandidatesRequest.FromString
    queries = [decode(parse(body)) for body in bodies]
    chain = InProcess.load(folder)
    _ways["models"] = [partial(chain.models, query, page) for query in queries]
    _ways["pipelines"] = [partial(chain.pipelines, query, page) for query in queries]
    _ways["rank"] = [partial(chain.rank_raw, chain.ranking_query(each, page)) for each in queries]
    for answers in _ways.values():
        for answer in answers:
            answer()  # warm up


def _timed(way: str, requests: int) -> Timing:
    answers, took = _ways[way], []
    began = time.process_time()
    for number in range(requests):
        start = time.perf_counter()
        answers[number % len(answers)]()
        took.append(time.perf_counter() - start)
    return Timing((time.process_time() - began) / requests, float(np.median(took)))
