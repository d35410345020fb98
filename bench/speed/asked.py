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
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

from bench.speed.floor import InProcess
from bench.speed.h2load import Shot, Target
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
_HEADERS = ("grpc-timeout: 10S", f"{REQUEST_ID}: {_REQUEST_ID}")
_SECONDS = 10.0
_PAUSE = 0.1


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
    """Return the ids of the first so many viewers of a data set."""
    viewers: list[str] = load_watches(home, dataset)["viewer_id"].drop_duplicates().tolist()
    return viewers[:count]


def feature_reader(features: Path) -> FeatureReader:
    """Return a reader of viewers' features from a Feast repository, as gateways have."""
    # Feast imports torch where it is installed: seconds for nothing.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    return FeatureReader(features, _SECONDS)


def asked(release: Path, features: Path, viewers: Sequence[str]) -> list[Asked]:
    """Return a request for each viewer, with the features as they are in the store.

    Args:
        release: folder of the release.
        features: Feast repository of its data set.
        viewers: their ids.
    """
    reader = feature_reader(features)
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


async def checked_target(
    name: str, address: str, questions: Sequence[Asked], folder: Path
) -> Target:
    """Ask each question once, and prepare it for h2load.

    Args:
        name: of what is asked, for errors.
        address: its host:port.
        questions: whose answers are held against the slates they must be.
        folder: where to keep what h2load sends.

    Raises:
        VireoError: an answer isn't the right one.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        answers = [await _ask(stub, question) for question in questions]
    stem = address.partition(":")[2]
    shots = [
        Shot.of(folder / f"{stem}-{number}.frame", question.request, answer, _HEADERS)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]
    return Target(name, f"http://{address}{_PATH}", shots, folder)


async def check_while(address: str, questions: Sequence[Asked], done: asyncio.Event) -> int:
    """Ask one question after the other until `done`, and return how many were answered right.

    Raises:
        VireoError: an answer isn't the right one.
    """
    count = 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        while not done.is_set():
            await _ask(stub, questions[count % len(questions)])
            count += 1
            await asyncio.sleep(_PAUSE)
    return count


async def _ask(
    stub: recommendation_pb2_grpc.RecommendationServiceAsyncStub, question: Asked
) -> recommendation_pb2.RecommendResponse:
    """Return the answer; raise VireoError unless it is the slate that it must be."""
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
