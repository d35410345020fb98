"""Which calls a gateway takes on, and which not."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.builders.busy import busy
from tests.builders.chain import POPULAR, Chain, gateway_settings
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.gateway.service import NAME, gateway_pod
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.pod import pod
from vireo.server.pod.run_queue import RunQueue
from vireo.server.rpc.admission import Slots
from vireo.server.rpc.caller import CALLER
from vireo.server.rpc.errors import ShedReason
from vireo.server.rpc.guard import _RESTS
from vireo.server.rpc.server import RpcServer
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

REQUEST = pb.RecommendRequest(viewer_id=VIEWER)
MAX_SLATES: int = GatewaySettings.model_fields["max_slates"].default


@pytest.fixture
def queue() -> RunQueue:
    """The queue of the candidate pod behind the gateway."""
    return RunQueue()


@asynccontextmanager
async def shedding(
    chain: Chain, queue: RunQueue, *, candidate_calls: int = 500, **limits: Any
) -> AsyncIterator[tuple[RpcServer, RecommendationServiceAsyncStub]]:
    """A gateway that sheds, before a candidate pod with this queue, and a stub for it."""
    async with serving(CANDIDATE_POD, chain.release, queue=queue, max_calls=candidate_calls) as (
        candidates,
        _,
    ):
        target = f"127.0.0.1:{candidates.port}"
        made = gateway_pod(gateway_settings(chain.features, target, chain.ranking))
        async with serving(made, chain.release, shedding=True, **limits) as (server, channel):
            yield server, RecommendationServiceStub(channel)


async def test_calls_beyond_the_limit_are_shed_and_none_at_once(
    chain: Chain, queue: RunQueue
) -> None:
    took = list[float]()
    async with shedding(chain, queue, max_calls=1) as (_, stub):
        async with busy(queue):
            under_way = stub.Recommend(REQUEST)
            await until(lambda: queue.queued == 2)
            for _ in range(5):
                began = time.monotonic()
                code = await stub.Recommend(REQUEST).code()
                took.append(time.monotonic() - began)
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not (await under_way).degradations
        assert not (await stub.Recommend(REQUEST)).degradations
    assert min(took) >= 0.5 * _RESTS[ShedReason.LIMIT], "callers who repeat at once would flood"


async def test_slates_that_wait_for_a_pod_that_hangs_leave_their_slots_to_others(
    chain: Chain, queue: RunQueue
) -> None:
    async with shedding(chain, queue) as (_, stub):
        async with busy(queue):
            under_way = [stub.Recommend(REQUEST) for _ in range(2 * MAX_SLATES)]
            await until(lambda: queue.queued == 1 + len(under_way))
        answers = await asyncio.gather(*under_way)
    assert not any(answer.degradations for answer in answers)


async def test_a_call_gets_a_place_in_the_queue_that_another_caller_has_filled(
    monkeypatch: pytest.MonkeyPatch, chain: Chain, queue: RunQueue
) -> None:
    monkeypatch.setattr(pod, "Slots", partial(Slots, hold_seconds=3600))
    async with shedding(chain, queue) as (_, stub):

        async def code(caller: str) -> grpc.StatusCode:
            call = stub.Recommend(REQUEST, metadata=((CALLER, caller),), timeout=60)
            found = await call.code()
            assert isinstance(found, grpc.StatusCode)
            return found

        async with busy(queue):
            flood = [asyncio.ensure_future(code("flood")) for _ in range(4 * MAX_SLATES)]
            await until(lambda: sum(each.done() for each in flood) == 2 * MAX_SLATES)
            other = asyncio.ensure_future(code("other"))
            await until(lambda: sum(each.done() for each in flood) == 2 * MAX_SLATES + 1)
        assert await other is grpc.StatusCode.OK
        codes = Counter(await asyncio.gather(*flood))
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] == 2 * MAX_SLATES + 1
    assert codes[grpc.StatusCode.OK] == 2 * MAX_SLATES - 1


async def test_a_response_is_degraded_if_a_candidate_pod_sheds(
    chain: Chain, queue: RunQueue
) -> None:
    async with shedding(chain, queue, candidate_calls=1) as (_, stub):
        async with busy(queue):
            under_way = stub.Recommend(REQUEST)
            await until(lambda: queue.queued == 2)
            answer = await stub.Recommend(REQUEST)
        assert not (await under_way).degradations
    assert list(answer.degradations) == POPULAR
    assert answer.items


async def test_calls_that_are_cancelled_at_random_leave_nothing_under_way(
    chain: Chain, queue: RunQueue
) -> None:
    chance = random.Random(7)
    async with shedding(chain, queue) as (server, stub):
        for _ in range(100):
            calls = [stub.Recommend(REQUEST, timeout=60) for _ in range(14)]
            tasks = [asyncio.ensure_future(call.code()) for call in calls]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for call in chance.sample(calls, 10):
                call.cancel()  # several leave at the moment at which others are answered
            await asyncio.gather(*tasks)
        await until(lambda: server.guard.under_way == 0)
        admission = server.guard.limits[NAME].admission
        assert admission is not None
        slots = admission.slots
        assert (admission.under_way, slots.held, slots.waiting) == (0, 0, 0)
        assert (await stub.Recommend(REQUEST)).items
