"""The requests of every measurement, and their right answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import grpc
import numpy as np
from google.protobuf.message import Message

from bench.load import PAGE
from bench.speed.h2load import Prepared, Target
from vireo.server.candidate.service import decode
from vireo.server.errors import VireoError
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.pods import retrieve_request
from vireo.server.gateway.query import RecommendQuery
from vireo.server.home import Home
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.ranking.query import RankingQuery
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.recommend.retrieval.query import CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.rpc.guard import REQUEST_ID
from vireo.training.features.watches import load_watches
from vireo.v1 import candidate_pb2, recommendation_pb2, recommendation_pb2_grpc, viewer_pb2

_REQUEST_ID = "bench"
_TOLERANCE = 1e-5
"""Maximum error of a score: a pod runs the same code on the same machine."""
_PATH = "/vireo.v1.RecommendationService/Recommend"
_HEADERS = ("grpc-timeout: 10S", f"{REQUEST_ID}: {_REQUEST_ID}")
_SECONDS = 10.0


@dataclass(frozen=True)
class Question:
    """One viewer's request, and the slate that must come back."""

    viewer_id: str
    request: recommendation_pb2.RecommendRequest
    candidates: candidate_pb2.RetrieveCandidatesRequest
    """With the viewer's features, as a gateway sends it."""
    ids: list[str]
    """The slate, made by the same pipelines in this process."""
    scores: list[float]

    @property
    def query(self) -> CandidateQuery:
        """The query of `candidates`."""
        return decode(self.candidates)


Ask: TypeAlias = Callable[[Question], Awaitable[object]]
"""Asks a question, and raises VireoError unless the answer is the right slate."""


def read_viewers(features: Path, viewer_ids: Iterable[str]) -> list[viewer_pb2.ViewerFeatures]:
    """Return viewers' features from a Feast repository, read as gateways do."""
    # Feast imports torch if it is installed, which takes seconds.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]

    def read() -> list[viewer_pb2.ViewerFeatures]:
        reader = FeatureReader(features, _SECONDS)

        async def every() -> list[viewer_pb2.ViewerFeatures]:
            return [await reader.read(viewer_id, _SECONDS) for viewer_id in viewer_ids]

        return asyncio.run(every())

    with ThreadPoolExecutor(1) as thread:  # this one may have an event loop that runs
        return thread.submit(read).result()


def questions_of(home: Home, dataset: str, viewers: int) -> list[Question]:
    """Return a request of each of a data set's first viewers to the newest trained release."""
    folder = home.trained_release(dataset)
    candidate = CandidatePipeline(CandidateRelease.load(folder))
    ranking = RankingPipeline(RankingRelease.load(folder))
    manifest, moment = candidate.release.manifest, int(time.time())
    questions = []
    viewer_ids = load_watches(home, dataset)["viewer_id"].drop_duplicates().head(viewers).tolist()
    known = read_viewers(home.features(dataset), viewer_ids)
    for viewer_id, viewer in zip(viewer_ids, known, strict=True):
        request = recommendation_pb2.RecommendRequest(viewer_id=viewer_id, page_size=PAGE)
        request.context.time.FromSeconds(moment)  # else the slate could change by the minute
        asked = RecommendQuery.of(request, _REQUEST_ID, time.monotonic())
        retrieval = retrieve_request(asked, viewer, manifest.candidates, manifest.release_id)
        query = decode(retrieval)
        found = candidate.retrieve(query)
        ranked = ranking.rank(
            RankingQuery(
                viewer=query.viewer,
                keys=found.keys,
                scores=found.scores,
                source_masks=found.source_masks,
                page_size=PAGE,
                seed_key=query.seed_key,
            )
        )
        ids = [ranking.release.ids[row] for row in ranked.rows.tolist()]
        questions.append(Question(viewer_id, request, retrieval, ids, ranked.scores.tolist()))
    return questions


async def checked_target(
    name: str, address: str, questions: Sequence[Question], folder: Path
) -> Target:
    """Ask each question once, and prepare it for h2load.

    Args:
        name: for errors.
        address: host:port.
        questions: what to ask.
        folder: where to keep what h2load sends.
    """
    async with asking(address) as ask:
        answers = [await ask(question) for question in questions]
    stem = address.partition(":")[2]
    prepared = [
        Prepared.of(folder / f"{stem}-{number}.frame", question.request, answer, _HEADERS)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]
    return Target(name, f"http://{address}{_PATH}", prepared, folder)


@asynccontextmanager
async def asking(address: str) -> AsyncIterator[Callable[[Question], Awaitable[Message]]]:
    """Connect to a RecommendationService at host:port, to ask questions and check the answers."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield partial(_ask, recommendation_pb2_grpc.RecommendationServiceStub(channel))


async def _ask(
    stub: recommendation_pb2_grpc.RecommendationServiceAsyncStub, question: Question
) -> recommendation_pb2.RecommendResponse:
    """Return the answer; raise VireoError unless it is the right slate."""
    metadata = ((REQUEST_ID, _REQUEST_ID),)
    answer = await stub.Recommend(question.request, timeout=_SECONDS, metadata=metadata)
    ids = [item.video_id for item in answer.items]
    check_slate(question, ids, [item.score for item in answer.items], answer.degradations)
    return answer


def check_slate(
    question: Question,
    ids: Sequence[str],
    scores: Sequence[float],
    degradations: Sequence[int] = (),
) -> None:
    """Raise VireoError unless this is the right slate."""
    same = list(ids) == question.ids and np.allclose(scores, question.scores, atol=_TOLERANCE)
    if degradations or not same:
        raise VireoError(
            f"viewer {question.viewer_id} got {ids} (degradations {list(degradations)}) "
            f"instead of {question.ids}: this isn't the work to measure"
        )
