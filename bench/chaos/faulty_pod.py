"""A pod that lies: it hands each call to a real pod, and answers worse than that one did.

python -m bench.chaos.faulty_pod --port 8190 --fault slow --candidate-target 127.0.0.1:8120 …
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal, TypeVar

import grpc.aio
from vireo.v1 import candidate_pb2, candidate_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import recommendation_pb2_grpc as pb_grpc

from server.control.mesh import GRPC_SERVICES
from server.rpc.errors import RpcError, unavailable
from server.rpc.logs import configure_logs
from server.rpc.server import RpcServer, run_process
from server.rpc.settings import RpcSettings, load_settings

UNAVAILABLE_SHARE = 0.6
SLOWER = 50
_DEFAULT_DEADLINE = 1.0

Response = TypeVar("Response")


class FaultySettings(RpcSettings):
    """What is wrong with the pod, and the real pods behind it."""

    fault: Literal["unavailable", "slow", "nan"]
    """60% of the answers UNAVAILABLE, 50 times slower, or NaN in place of each score."""
    candidate_target: str
    ranking_target: str
    gateway_target: str


class Fault:
    """Does to a call what is wrong with the pod."""

    def __init__(self, fault: str) -> None:
        """Takes the fault; see FaultySettings."""
        self._fault = fault

    async def call(
        self, ask: Callable[..., Awaitable[Response]], request: Any, context: Any
    ) -> Response:
        """The real pod's answer to a request, late if at all."""
        if self._fault == "unavailable" and random.random() < UNAVAILABLE_SHARE:  # noqa: S311
            raise unavailable("out of order", timedelta(0))
        started = time.monotonic()
        try:
            response = await ask(request, timeout=context.time_remaining() or _DEFAULT_DEADLINE)
        except grpc.aio.AioRpcError as error:
            raise RpcError(error.code(), error.details() or "") from error
        if self._fault == "slow":
            await asyncio.sleep((SLOWER - 1) * (time.monotonic() - started))
        return response

    def garble(self, scores: Any) -> None:
        """Puts NaN in place of each score of a column, where that is the fault."""
        if self._fault == "nan":
            scores[:] = [math.nan] * len(scores)


class FaultyCandidate(candidate_pb2_grpc.CandidateServiceServicer):
    """CandidateService, by another pod."""

    def __init__(self, fault: Fault, target: str) -> None:
        """Takes the fault and the real pod's host:port."""
        self._fault = fault
        self._stub = candidate_pb2_grpc.CandidateServiceStub(grpc.aio.insecure_channel(target))

    async def RetrieveCandidates(  # noqa: N802
        self, request: candidate_pb2.RetrieveCandidatesRequest, context: Any
    ) -> candidate_pb2.RetrieveCandidatesResponse:
        """The real pod's candidates."""
        response = await self._fault.call(self._stub.RetrieveCandidates, request, context)
        for column in (response.scores, response.co_watch_scores, response.ease_scores):
            self._fault.garble(column)
        return response


class FaultyRanking(ranking_pb2_grpc.RankingServiceServicer):
    """RankingService, by another pod."""

    def __init__(self, fault: Fault, target: str) -> None:
        """Takes the fault and the real pod's host:port."""
        self._fault = fault
        self._stub = ranking_pb2_grpc.RankingServiceStub(grpc.aio.insecure_channel(target))

    async def RankCandidates(  # noqa: N802
        self, request: ranking_pb2.RankCandidatesRequest, context: Any
    ) -> ranking_pb2.RankCandidatesResponse:
        """The real pod's ranking."""
        response = await self._fault.call(self._stub.RankCandidates, request, context)
        for column in (response.scores, response.watch_scores, response.like_scores):
            self._fault.garble(column)
        return response


class FaultyGateway(pb_grpc.RecommendationServiceServicer):
    """RecommendationService, by another gateway."""

    def __init__(self, fault: Fault, target: str) -> None:
        """Takes the fault and the real gateway's host:port."""
        self._fault = fault
        self._stub = pb_grpc.RecommendationServiceStub(grpc.aio.insecure_channel(target))

    async def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: Any
    ) -> pb.RecommendResponse:
        """The real gateway's slate."""
        return await self._fault.call(self._stub.Recommend, request, context)


async def serve_faulty(settings: FaultySettings) -> None:
    """Serves until told to stop."""
    configure_logs(settings.log_level, pod=f"faulty-{settings.fault}")
    fault, server = Fault(settings.fault), RpcServer(settings)
    candidate = FaultyCandidate(fault, settings.candidate_target)
    ranking = FaultyRanking(fault, settings.ranking_target)
    gateway = FaultyGateway(fault, settings.gateway_target)
    server.add(
        GRPC_SERVICES["candidate"],
        lambda it: candidate_pb2_grpc.add_CandidateServiceServicer_to_server(candidate, it),
    )
    server.add(
        GRPC_SERVICES["ranking"],
        lambda it: ranking_pb2_grpc.add_RankingServiceServicer_to_server(ranking, it),
    )
    server.add(
        GRPC_SERVICES["gateway"],
        lambda it: pb_grpc.add_RecommendationServiceServicer_to_server(gateway, it),
    )

    async def say_so() -> None:
        while not server.port:  # noqa: ASYNC110 - its start has no event
            await asyncio.sleep(0.01)
        await server.set_serving(True)
        await asyncio.Event().wait()

    await server.run(say_so())


async def main() -> None:
    """Serves what the command line says."""
    await serve_faulty(load_settings(FaultySettings, sys.argv[1:]))


if __name__ == "__main__":
    run_process(main)
