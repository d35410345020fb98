"""What is measured: chains of servers, what they are asked, and the slates that must come back."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import Message

from bench.load import PAGE
from bench.speed.h2load import LoadResult, Prepared, Target
from bench.stack import Stack, cpu_seconds, linked_home
from vireo.ops.stack.state import Layout
from vireo.server.candidate.service import decode
from vireo.server.errors import VireoError
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.pods import retrieve_request
from vireo.server.gateway.query import RecommendQuery
from vireo.server.home import Home
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.ranking.release import RankingQuery, RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.rpc.guard import REQUEST_ID
from vireo.training.features.watches import load_watches
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc, viewer_pb2

SETTINGS = {
    "VIREO_CANDIDATE_PODS": "1",
    "VIREO_RANKING_PODS": "1",
    "VIREO_GATEWAY_PODS": "1",
    # 32 callers on two cores would have some calls shed, and here each must be answered in full.
    "VIREO_SHEDDING": "false",
    # For the same reason no stage is skipped if the machine is busy otherwise.
    "VIREO_FEATURES_TIMEOUT": "5",
    "VIREO_RETRIEVAL_TIMEOUT": "5",
    "VIREO_RANKING_TIMEOUT": "5",
    # The same few viewers are asked for over and over, and the viewer tower must run each time.
    "VIREO_VIEWER_VECTOR_CACHE_SIZE": "0",
}
_ID = "bench"
_TOLERANCE = 1e-5
"""Maximum error of a score: a pod runs the same code on the same machine."""
_PATH = "/vireo.v1.RecommendationService/Recommend"
_HEADERS = ("grpc-timeout: 10S", f"{REQUEST_ID}: {_ID}")
_SECONDS = 10.0


@dataclass(frozen=True)
class SpeedPlan:
    """Amounts that all measurements share; what defines a measure is with the measure."""

    rounds: int = 5
    viewers: int = 40
    """Viewers whose slates are asked for."""
    requests: int = 700
    """From many callers to each chain in each round."""
    alone: int = 240
    """From one caller to each in each round."""
    sample: int = 500
    """Viewers to search with, and to ask for before memory is read."""
    rest: float = 60.0
    """Seconds for which nobody asks an idle stack anything."""

    def requests_of(self, callers: int) -> int:
        """Return how many requests some callers send together."""
        return self.alone if callers == 1 else self.requests

    def of_round(self, number: int) -> SpeedPlan:
        """Return the amounts of a round; the first, 0, only warms up."""
        return self if number else replace(self, requests=64, alone=16)


@dataclass(frozen=True)
class Question:
    """One viewer's request, and the slate that must come back."""

    viewer_id: str
    request: recommendation_pb2.RecommendRequest
    viewer: viewer_pb2.ViewerFeatures
    """As gateways read them."""
    decoded: ViewerFeatures
    """The same, as pods read them."""
    ids: list[str]
    """The slate, made by the same pipelines in this process."""
    scores: list[float]

    def check(
        self, ids: Sequence[str], scores: Sequence[float], degradations: Sequence[int] = ()
    ) -> None:
        """Raise VireoError unless this is the right slate."""
        same = list(ids) == self.ids and np.allclose(scores, self.scores, atol=_TOLERANCE)
        if degradations or not same:
            raise VireoError(
                f"viewer {self.viewer_id} got {ids} (degradations {list(degradations)}) "
                f"instead of {self.ids}: this isn't the work to measure"
            )


def read_viewers(features: Path, viewer_ids: Iterable[str]) -> list[viewer_pb2.ViewerFeatures]:
    """Return viewers' features from a Feast repository, read as gateways do."""
    # Feast imports torch if it is installed, which takes seconds.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    reader = FeatureReader(features, _SECONDS)

    async def every() -> list[viewer_pb2.ViewerFeatures]:
        return [await reader.read(viewer_id, _SECONDS) for viewer_id in viewer_ids]

    return asyncio.run(every())


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
        asked = RecommendQuery.of(request, _ID, time.monotonic())
        retrieval = retrieve_request(asked, viewer, manifest.candidates, manifest.release_id)
        query, _ = decode(retrieval, candidate.release)
        found = candidate.retrieve(query)
        columns = (found.keys, found.scores, found.source_masks)
        ranked = ranking.rank(
            RankingQuery(query.viewer, *columns, page_size=PAGE, seed_key=query.seed_key)
        )
        ids = [ranking.release.ids[row] for row in ranked.rows.tolist()]
        scores = ranked.scores.tolist()
        questions.append(Question(viewer_id, request, viewer, query.viewer, ids, scores))
    return questions


def _asked(address: str, questions: Sequence[Question]) -> list[Message]:
    """Ask a RecommendationService at host:port; raise VireoError unless each slate is right."""
    answers: list[Message] = []
    with grpc.insecure_channel(address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        for question in questions:
            metadata = ((REQUEST_ID, _ID),)
            answer = stub.Recommend(question.request, timeout=_SECONDS, metadata=metadata)
            scores = [item.score for item in answer.items]
            question.check([item.video_id for item in answer.items], scores, answer.degradations)
            answers.append(answer)
    return answers


@dataclass(frozen=True)
class Cost:
    """Cost of one response, and the load under which it was measured."""

    load: LoadResult
    processes: Mapping[str, float]
    """Processor seconds per response, by process."""

    @property
    def cpu(self) -> float:
        """Processor seconds per response, of all processes."""
        return sum(self.processes.values())


@dataclass(frozen=True)
class Chain:
    """Processes that answer together; they have answered every question right."""

    target: Target
    pids: Mapping[str, int]
    """The processes whose time counts, with those that they have started, by name."""

    @staticmethod
    def of(
        name: str,
        address: str,
        pids: Mapping[str, int],
        questions: Sequence[Question],
        folder: Path,
    ) -> Chain:
        """Return a RecommendationService at host:port, once it has answered every question."""
        stem, answers = address.partition(":")[2], _asked(address, questions)
        prepared = [
            Prepared.of(folder / f"{stem}-{number}.frame", question.request, answer, _HEADERS)
            for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
        ]
        return Chain(Target(name, f"http://{address}{_PATH}", prepared, folder), pids)

    @property
    def name(self) -> str:
        """What it is called in rows."""
        return self.target.name

    async def load(self, number: int, callers: int, requests: int) -> Cost:
        """Send requests as `Target.load` does; raise VireoError if an answer is wrong."""
        before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        load = await self.target.load(number, callers, requests)
        used = {name: cpu_seconds(pid) - before[name] for name, pid in self.pids.items()}
        return Cost(load, {name: seconds / load.requests for name, seconds in used.items()})


@dataclass(frozen=True)
class Stand:
    """A stack with one pod of each kind, and pods that need no Envoy: a gateway and a slate pod."""

    stack: Stack
    home: Home
    """Home of the release that it serves."""
    dataset: str
    pids: Mapping[str, int]
    """Process ids of envoy, gateway, candidate, ranking, direct, slate and others."""
    direct: str
    """host:port of the gateway that needs no Envoy."""
    slate: str
    """host:port of the slate pod."""

    @property
    def folder(self) -> Path:
        """Folder for the files of a measurement."""
        return self.stack.home.root

    @property
    def release(self) -> Path:
        """Folder of the release that it serves."""
        return self.home.trained_release(self.dataset)

    def chain(
        self, name: str, address: str, processes: Iterable[str], questions: Sequence[Question]
    ) -> Chain:
        """Return some of its processes as a chain; see `Chain.of`."""
        pids = {process: self.pids[process] for process in processes}
        return Chain.of(name, address, pids, questions, self.folder)

    def another(self, layout: Layout, settings: Mapping[str, str] | None = None) -> Stack:
        """Return a stack of a layout, to be run on a home of its own, of the same release."""
        home = linked_home(self.home, f"speed-{layout}")
        return Stack.of(home, self.release, settings={**(settings or {}), "VIREO_LAYOUT": layout})

    def edge(self, viewers: int) -> Target:
        """Return Envoy's edge, after it has answered for the first viewers right."""
        questions = questions_of(self.home, self.dataset, viewers)
        return self.chain("the edge", self.stack.settings.edge, (), questions).target


@contextmanager
def stand(home: Home, dataset: str) -> Iterator[Stand]:
    """Serve a data set's newest release until the block ends, in a home below `home`."""
    release = home.trained_release(dataset)
    stack = Stack.of(linked_home(home, "speed"), release, settings=SETTINGS)
    around_envoy = {
        "VIREO_CANDIDATE_TARGET": f"127.0.0.1:{stack.settings.candidate_pod_port}",
        "VIREO_RANKING_TARGET": f"127.0.0.1:{stack.settings.ranking_pod_port}",
    }
    with (
        stack.running(),
        stack.further_pod("gateway", around_envoy) as (direct, pid),
        stack.further_pod("slate") as (slate, slate_pid),
    ):
        processes = stack.state().processes
        pids = {each.name.removesuffix("-1"): each.pid for each in processes if each.pid}
        pids |= {"direct": pid, "slate": slate_pid}
        yield Stand(stack, home, dataset, pids, direct, slate)


@contextmanager
def together(stood: Stand, questions: Sequence[Question]) -> Iterator[Chain]:
    """Run a stack of two slate pods that serve a stand's release; yield the chain behind Envoy."""
    with stood.another("together", SETTINGS).running() as stack:
        pids = {name: stack.process(name).pid for name in ("envoy", "slate-1", "slate-2")}
        known = {name: pid for name, pid in pids.items() if pid is not None}
        name = "Vireo together behind Envoy"
        yield Chain.of(name, stack.settings.edge, known, questions, stood.folder)
