"""Callers who ask a stack for slates while something happens to it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc.aio

from tests.builders.waiting import until
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

_UNDEGRADED = 20
"""Slates in a row without a degradation, before a fault and after it."""
_MAX_DEGRADED_SHARE = 0.5
"""Bound on degraded slates during a fault: pods that are left answer for those that aren't."""
_SECONDS = 120


class Answers:
    """What callers got."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.releases: Counter[str] = Counter()
        self.degradations: Counter[str] = Counter()
        self.degraded = self._in_a_row = 0

    def add(self, slate: pb.RecommendResponse) -> None:
        """Count a slate."""
        self.releases[slate.release_id] += 1
        self.degradations.update(map(viewer_pb2.Degradation.Name, slate.degradations))
        self.degraded += bool(slate.degradations)
        self._in_a_row = 0 if slate.degradations else self._in_a_row + 1

    async def until_undegraded(self) -> None:
        """Return once slates are as they should be."""
        self._in_a_row = 0
        await until(lambda: self._in_a_row >= _UNDEGRADED, _SECONDS)

    async def until_more(self, count: int) -> None:
        """Return after so many further slates."""
        enough = self.releases.total() + count
        await until(lambda: self.releases.total() >= enough, _SECONDS)


async def slates_during(
    edge: str, fault: Callable[[Answers], Awaitable[None]], callers: int = 8
) -> Answers:
    """Return what callers got before, during and after a fault.

    Slates have no degradation before it begins and after it has ended; meanwhile at most half do.
    """
    answers, over = Answers(), asyncio.Event()

    async def caller(stub: RecommendationServiceStub) -> None:
        while not over.is_set():
            request = pb.RecommendRequest(viewer_id=os.urandom(4).hex(), page_size=10)
            try:
                slate = await stub.Recommend(request, timeout=10)  # type: ignore[misc]
            except grpc.aio.AioRpcError as error:
                answers.failures[f"{error.code().name}: {error.details()}"] += 1
                continue
            if len(slate.items) < 10:
                answers.failures["a short slate"] += 1
            answers.add(slate)

    async def run() -> None:
        try:
            await answers.until_undegraded()
            degraded, count = answers.degraded, answers.releases.total()
            await fault(answers)
            degraded, count = answers.degraded - degraded, answers.releases.total() - count
            assert degraded <= _MAX_DEGRADED_SHARE * count, answers.degradations
            await answers.until_undegraded()
        finally:
            over.set()

    async with grpc.aio.insecure_channel(edge) as channel:
        stub = RecommendationServiceStub(channel)
        await asyncio.gather(run(), *(caller(stub) for _ in range(callers)))
    return answers
