"""Work for callers who have gone: none is begun, on the gateway or behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.builders.busy import busy
from tests.builders.chain import gateway_settings
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER
from tests.builders.waiting import until
from tests.builders.work_counts import WorkCounts
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.gateway.service import gateway_pod
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

REQUEST = pb.RecommendRequest(viewer_id=VIEWER)


@dataclass(frozen=True)
class Chain:
    """A gateway, and the queues of both pods."""

    stub: RecommendationServiceAsyncStub
    candidate: RunQueue
    ranking: RunQueue

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs anywhere."""
        return not any(each.queued for each in (self.candidate, self.ranking))


@pytest.fixture
async def chain(release: Path, features: Path) -> AsyncIterator[Chain]:
    candidate, ranking = RunQueue(), RunQueue()
    async with (
        serving(CANDIDATE_POD, release, queue=candidate) as (candidates, _),
        serving(RANKING_POD, release, queue=ranking) as (rankings, _),
    ):
        targets = [f"127.0.0.1:{server.port}" for server in (candidates, rankings)]
        settings = gateway_settings(features, *targets)
        async with serving(gateway_pod(settings), release) as (_, channel):
            yield Chain(RecommendationServiceStub(channel), candidate, ranking)


@pytest.mark.parametrize("stage", ["candidate", "ranking"])
async def test_a_cancelled_call_drops_its_waiting_work(chain: Chain, stage: str) -> None:
    queue: RunQueue = getattr(chain, stage)
    before = {"candidate": 0, "ranking": 1}[stage]
    async with busy(queue):
        work = WorkCounts()
        call = chain.stub.Recommend(REQUEST)
        waiting = asyncio.ensure_future(call)
        await until(lambda: queue.queued == 2)
        call.cancel()
        await until(lambda: queue.queued == 1)
        await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: chain.idle)
    # What was run is what came before in the chain, and what kept the queue busy.
    ran, abandoned_waiting, _ = work.since
    assert (ran, abandoned_waiting) == (before + 1, 1)


async def test_after_a_deadline_of_5_ms_no_work_continues(chain: Chain) -> None:
    async with busy(chain.candidate), busy(chain.ranking):
        outcomes = []
        for _ in range(50):
            try:
                answer = await chain.stub.Recommend(REQUEST, timeout=0.005)
                outcomes.append(bool(answer.degradations))
            except grpc.aio.AioRpcError as error:
                outcomes.append(error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
        await until(lambda: chain.candidate.queued == chain.ranking.queued == 1)
        work = WorkCounts()
    await until(lambda: chain.idle)
    assert all(outcomes), "each is degraded or DEADLINE_EXCEEDED"
    assert work.since[0] == 2, "what kept the two busy, and nothing for the callers"
