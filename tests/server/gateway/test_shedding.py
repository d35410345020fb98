"""Which calls a gateway takes on, and which not."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.builders.busy import busy
from tests.builders.chain import gateway_settings
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
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

REQUEST = pb.RecommendRequest(viewer_id=VIEWER)
MAX_SLATES: int = GatewaySettings.model_fields["max_slates"].default


@asynccontextmanager
async def gateway_before(
    queue: RunQueue,
    release: Path,
    features: Path,
    ranking: str,
    max_calls: int = 500,
    candidate_calls: int = 500,
) -> AsyncIterator[RecommendationServiceAsyncStub]:
    """A gateway before a candidate pod with this queue."""
    async with serving(CANDIDATE_POD, release, queue=queue, max_calls=candidate_calls) as (
        server,
        _,
    ):
        settings = gateway_settings(features, f"127.0.0.1:{server.port}", ranking)
        async with serving(gateway_pod(settings), release, max_calls=max_calls, shedding=True) as (
            _,
            channel,
        ):
            yield RecommendationServiceStub(channel)


async def test_a_call_beyond_the_limit_is_shed(
    release: Path, features: Path, ranking_target: str
) -> None:
    queue = RunQueue()
    async with gateway_before(queue, release, features, ranking_target, max_calls=1) as stub:
        async with busy(queue):
            under_way = stub.Recommend(REQUEST)
            await until(lambda: queue.queued == 2)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Recommend(REQUEST)
        assert not (await under_way).degradations
        assert not (await stub.Recommend(REQUEST)).degradations
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_slates_that_wait_for_a_pod_that_hangs_leave_their_slots_to_others(
    release: Path, features: Path, ranking_target: str
) -> None:
    queue = RunQueue()
    async with gateway_before(queue, release, features, ranking_target) as stub:
        async with busy(queue):
            under_way = [stub.Recommend(REQUEST) for _ in range(2 * MAX_SLATES)]
            await until(lambda: queue.queued == 1 + len(under_way))
        answers = await asyncio.gather(*under_way)
    assert not any(answer.degradations for answer in answers)


async def test_a_call_gets_a_place_in_the_queue_that_another_caller_has_filled(
    monkeypatch: pytest.MonkeyPatch, release: Path, features: Path, ranking_target: str
) -> None:
    monkeypatch.setattr(pod, "Slots", partial(Slots, hold_seconds=3600))
    queue = RunQueue()
    async with gateway_before(queue, release, features, ranking_target) as stub:
        async with busy(queue):
            flood = [asyncio.ensure_future(_code(stub, "flood")) for _ in range(4 * MAX_SLATES)]
            await until(lambda: sum(each.done() for each in flood) == 2 * MAX_SLATES)
            other = asyncio.ensure_future(_code(stub, "other"))
            await until(lambda: sum(each.done() for each in flood) == 2 * MAX_SLATES + 1)
        assert await other is grpc.StatusCode.OK
        codes = Counter(await asyncio.gather(*flood))
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] == 2 * MAX_SLATES + 1
    assert codes[grpc.StatusCode.OK] == 2 * MAX_SLATES - 1


async def _code(stub: RecommendationServiceAsyncStub, caller: str) -> grpc.StatusCode:
    code = await stub.Recommend(REQUEST, metadata=((CALLER, caller),), timeout=60).code()
    assert isinstance(code, grpc.StatusCode)
    return code


async def test_a_response_is_degraded_if_a_candidate_pod_sheds(
    release: Path, features: Path, ranking_target: str
) -> None:
    queue = RunQueue()
    async with gateway_before(queue, release, features, ranking_target, candidate_calls=1) as stub:
        async with busy(queue):
            under_way = stub.Recommend(REQUEST)
            await until(lambda: queue.queued == 2)
            answer = await stub.Recommend(REQUEST)
        assert not (await under_way).degradations
    assert list(answer.degradations) == [viewer_pb2.DEGRADATION_POPULAR_FALLBACK]
    assert answer.items


async def test_calls_that_are_cancelled_at_random_leave_nothing_under_way(
    release: Path, features: Path, ranking_target: str
) -> None:
    chance = random.Random(7)
    async with serving(CANDIDATE_POD, release) as (candidates, _):
        settings = gateway_settings(features, f"127.0.0.1:{candidates.port}", ranking_target)
        async with serving(gateway_pod(settings), release, shedding=True) as (
            server,
            channel,
        ):
            stub = RecommendationServiceStub(channel)

            for _ in range(100):
                calls = [stub.Recommend(REQUEST, timeout=60) for _ in range(14)]
                tasks = [asyncio.ensure_future(call.code()) for call in calls]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for call in chance.sample(calls, 10):
                    call.cancel()  # several leave at the moment at which others are answered
                await asyncio.gather(*tasks)
            await until(lambda: server.under_way == 0)
            admission = server._guard.limits[NAME].admission
            assert admission is not None
            slots = admission.slots
            assert (admission.under_way, slots.held, slots.waiting) == (0, 0, 0)
            assert (await stub.Recommend(REQUEST)).items
