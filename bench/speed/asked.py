"""What is asked in every measurement, and what must come back."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import Message
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

from bench.speed.floor import InProcess
from bench.speed.h2load import Shot, frame
from server.candidate.service import decode
from server.errors import VireoError
from server.gateway.deadline import Deadline
from server.gateway.features import FeatureReader
from server.gateway.query import RecommendQuery
from server.gateway.stages.retrieve import retrieve_request
from server.home import Home
from server.rpc.guard import REQUEST_ID
from training.features.watches import load_watches

PAGE = 10
"""Videos of a slate."""
_REQUEST_ID = "bench"
_TOLERANCE = 1e-5
"""Of a score: a pod runs the same code on the same machine."""
_PATH = "/vireo.v1.RecommendationService/Recommend"
_HEADERS = (
    "content-type: application/grpc",
    "te: trailers",
    "grpc-timeout: 10S",
    f"{REQUEST_ID}: {_REQUEST_ID}",
)
_SECONDS = 10.0


@dataclass(frozen=True)
class Asked:
    """One viewer's request."""

    viewer_id: str
    request: recommendation_pb2.RecommendRequest
    candidates: bytes
    """RetrieveCandidatesRequest with the viewer's features, as a gateway sends it."""
    ids: list[str]
    """The slate that must come back, made by the same pipelines in this process."""
    scores: list[float]
    """Of each video of it."""


def first_viewers(home: Home, dataset: str, count: int) -> list[str]:
    """Ids of the first so many viewers of a data set."""
    viewers: list[str] = load_watches(home, dataset)["viewer_id"].drop_duplicates().tolist()
    return viewers[:count]


def asked(release: Path, features: Path, viewers: Sequence[str]) -> list[Asked]:
    """A request for each viewer, with the features as they are in the store.

    Args:
        release: folder of the release.
        features: Feast repository of its data set.
        viewers: their ids.
    """
    # Feast imports torch where it is installed: seconds for nothing.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    reader = FeatureReader(features, _SECONDS)
    chain = InProcess.load(release)
    manifest = chain.candidate.release.manifest
    moment = int(time.time())
    found = []
    for viewer_id in viewers:
        request = recommendation_pb2.RecommendRequest(viewer_id=viewer_id, page_size=PAGE)
        request.context.time.FromSeconds(moment)  # else the slate could change by the minute
        query = RecommendQuery.of(request, _REQUEST_ID, Deadline(time.monotonic()))
        viewer = reader.read(viewer_id)
        retrieval = retrieve_request(query, viewer, manifest.candidates, manifest.release_id)
        ranked = chain.slate(decode(retrieval), PAGE)
        ids = [chain.ranking.release.ids[row] for row in ranked.rows.tolist()]
        found.append(
            Asked(viewer_id, request, retrieval.SerializeToString(), ids, ranked.scores.tolist())
        )
    return found


def recommend_url(target: str) -> str:
    """The URL of Recommend at host:port, for h2load."""
    return f"http://{target}{_PATH}"


async def checked_shots(target: str, questions: Sequence[Asked], folder: Path) -> list[Shot]:
    """Asks each question once, and prepares it for h2load.

    Args:
        target: host:port of what is asked.
        questions: whose answers are held against the slates they must be.
        folder: where to keep what h2load sends.

    Raises:
        VireoError: an answer isn't the right one.
    """
    async with grpc.aio.insecure_channel(target) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        answers = [await _ask(stub, question) for question in questions]
    stem = target.partition(":")[2]
    return [
        prepared(folder / f"{stem}-{number}.frame", question.request, answer, _HEADERS)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]


def prepared(body: Path, request: Message, answer: Message, headers: tuple[str, ...]) -> Shot:
    """A request as h2load sends it from the file `body`, which is written."""
    body.write_bytes(frame(request.SerializeToString()))
    return Shot(body, len(frame(answer.SerializeToString())), headers)


async def check_while(
    target: str, questions: Sequence[Asked], done: asyncio.Event, pause: float = 0.1
) -> int:
    """Asks one question after the other until `done`, and says how many were answered right.

    Raises:
        VireoError: an answer isn't the right one.
    """
    count = 0
    async with grpc.aio.insecure_channel(target) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        while not done.is_set():
            await _ask(stub, questions[count % len(questions)])
            count += 1
            await asyncio.sleep(pause)
    return count


async def _ask(
    stub: recommendation_pb2_grpc.RecommendationServiceAsyncStub, question: Asked
) -> recommendation_pb2.RecommendResponse:
    """The answer; raises VireoError unless it is the slate that it must be."""
    answer = await stub.Recommend(
        question.request, timeout=_SECONDS, metadata=((REQUEST_ID, _REQUEST_ID),)
    )
    ids = [item.video_id for item in answer.items]
    scores = [item.score for item in answer.items]
    same = ids == question.ids and np.allclose(scores, question.scores, atol=_TOLERANCE)
    if answer.degradations or not same:
        raise VireoError(
            f"viewer {question.viewer_id} got {ids} (degradations {list(answer.degradations)}) "
            f"instead of {question.ids}: what was measured would not be the work that is meant"
        )
    return answer
