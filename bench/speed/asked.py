"""The requests of every measurement, and their right answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

from bench.speed.floor import InProcess
from bench.speed.h2load import Prepared, Target
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
"""Maximum error of a score: a pod runs the same code on the same machine."""
_PATH = "/vireo.v1.RecommendationService/Recommend"
_HEADERS = ("grpc-timeout: 10S", f"{REQUEST_ID}: {_REQUEST_ID}")
_SECONDS = 10.0
_PAUSE = 0.1


@dataclass(frozen=True)
class Question:
    """One viewer's request, and the slate that must come back."""

    viewer_id: str
    request: recommendation_pb2.RecommendRequest
    candidates: bytes
    """RetrieveCandidatesRequest with the viewer's features, as a gateway sends it."""
    ids: list[str]
    """The slate, made by the same pipelines in this process."""
    scores: list[float]


def feature_reader(features: Path) -> FeatureReader:
    """Return a reader of viewers' features from a Feast repository, as gateways have."""
    # Feast imports torch if it is installed, which takes seconds.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    return FeatureReader(features, _SECONDS)


def questions_of(home: Home, dataset: str, viewers: int) -> list[Question]:
    """Return a request of each of a data set's first viewers to the newest trained release."""
    chain = InProcess.load(home.trained_release(dataset))
    reader = feature_reader(home.features(dataset))
    manifest = chain.candidate.release.manifest
    moment = int(time.time())
    questions = []
    for viewer_id in load_watches(home, dataset)["viewer_id"].drop_duplicates().head(viewers):
        request = recommendation_pb2.RecommendRequest(viewer_id=viewer_id, page_size=PAGE)
        request.context.time.FromSeconds(moment)  # else the slate could change by the minute
        query = RecommendQuery.of(request, _REQUEST_ID, Deadline(time.monotonic()))
        viewer = reader.read(viewer_id)
        retrieval = retrieve_request(query, viewer, manifest.candidates, manifest.release_id)
        ranked = chain.slate(decode(retrieval), PAGE)
        ids = [chain.ranking.release.ids[row] for row in ranked.rows.tolist()]
        body, scores = retrieval.SerializeToString(), ranked.scores.tolist()
        questions.append(Question(viewer_id, request, body, ids, scores))
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
    async with grpc.aio.insecure_channel(address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        answers = [await _ask(stub, question) for question in questions]
    stem = address.partition(":")[2]
    prepared = [
        Prepared.of(folder / f"{stem}-{number}.frame", question.request, answer, _HEADERS)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]
    return Target(name, f"http://{address}{_PATH}", prepared, folder)


async def check_while(address: str, questions: Sequence[Question], done: asyncio.Event) -> int:
    """Ask one question after the other until `done`, and return how many were answered right."""
    count = 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        while not done.is_set():
            await _ask(stub, questions[count % len(questions)])
            count += 1
            await asyncio.sleep(_PAUSE)
    return count


async def _ask(
    stub: recommendation_pb2_grpc.RecommendationServiceAsyncStub, question: Question
) -> recommendation_pb2.RecommendResponse:
    """Return the answer; raise VireoError unless it is the right slate."""
    answer = await stub.Recommend(
        question.request, timeout=_SECONDS, metadata=((REQUEST_ID, _REQUEST_ID),)
    )
    ids = [item.video_id for item in answer.items]
    scores = [item.score for item in answer.items]
    same = ids == question.ids and np.allclose(scores, question.scores, atol=_TOLERANCE)
    if answer.degradations or not same:
        raise VireoError(
            f"viewer {question.viewer_id} got {ids} (degradations {list(answer.degradations)}) "
            f"instead of {question.ids}: this isn't the work to measure"
        )
    return answer
