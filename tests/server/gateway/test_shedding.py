"""Which calls a gateway takes on, and which not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest

from tests.builders.busy import busy
from tests.builders.chain import Chain, GatewayStub, gateway_settings
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.gateway.service import gateway_pod
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.pod import pod
from vireo.server.pod.run_queue import RunQueue
from vireo.server.rpc.admission import Slots
from vireo.server.rpc.caller import CALLER
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

REQUEST = pb.RecommendRequest(viewer_id=VIEWER)
MAX_SLATES: int = GatewaySettings.model_fields["max_slates"].default


@asynccontextmanager
async def gateway_before(
    queue: RunQueue, chain: Chain, max_calls: int = 500, candidate_calls: int = 500
) -> AsyncIterator[GatewayStub]:
    """A gateway before a candidate pod with this queue."""
    pod = serving(CANDIDATE_POD, chain.release, queue=queue, max_calls=candidate_calls)
    async with pod as (server, _):
        settings = gateway_settings(chain.features, f"127.0.0.1:{server.port}", chain.ranking)
        gateway = gateway_pod(settings)
        served = serving(gateway, chain.release, max_calls=max_calls, shedding=True)
        async with served as (_, channel):
            yield RecommendationServiceStub(channel)


async def test_a_call_beyond_the_limit_is_shed(chain: Chain) -> None:
    queue = RunQueue()
    async with gateway_before(queue, chain, max_calls=1) as stub:
        async with busy(queue):
            under_way = stub.Recommend(REQUEST)
            await until(lambda: queue.queued == 2)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Recommend(REQUEST)
        assert not (await under_way).degradations
        assert not (await stub.Recommend(REQUEST)).degradations
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_slates_that_wait_for_a_pod_that_hangs_leave_their_slots_to_others(
    chain: Chain,
) -> None:
    queue = RunQueue()
    async with gateway_before(queue, chain) as stub:
        async with busy(queue):
            under_way = [stub.Recommend(REQUEST) for _ in range(2 * MAX_SLATES)]
            await until(lambda: queue.queued == 1 + len(under_way))
        answers = await asyncio.gather(*under_way)
    assert not any(answer.degradations for answer in answers)


async def test_a_call_gets_a_place_in_the_queue_that_another_caller_has_filled(
    monkeypatch: pytest.MonkeyPatch, chain: Chain
) -> None:
    monkeypatch.setattr(pod, "Slots", partial(Slots, hold_seconds=3600))
    queue = RunQueue()
    async with gateway_before(queue, chain) as stub:
        async with busy(queue):
            flood = [asyncio.ensure_future(_code(stub, "flood")) for _ in range(4 * MAX_SLATES)]
            await until(lambda: sum(each.done() for each in flood) == 2 * MAX_SLATES)
            other = asyncio.ensure_future(_code(stub, "other"))
            await until(lambda: sum(each.done() for each in flood) == 2 * MAX_SLATES + 1)
        assert await other is grpc.StatusCode.OK
        codes = Counter(await asyncio.gather(*flood))
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] == 2 * MAX_SLATES + 1
    assert codes[grpc.StatusCode.OK] == 2 * MAX_SLATES - 1


async def _code(stub: GatewayStub, caller: str) -> grpc.StatusCode:
    code = await stub.Recommend(REQUEST, metadata=((CALLER, caller),), timeout=60).code()
    assert isinstance(code, grpc.StatusCode)
    return code


async def test_a_response_is_degraded_if_a_candidate_pod_sheds(chain: Chain) -> None:
    queue = RunQueue()
    async with gateway_before(queue, chain, candidate_calls=1) as stub:
        async with busy(queue):
            under_way = stub.Recommend(REQUEST)
            await until(lambda: queue.queued == 2)
            answer = await stub.Recommend(REQUEST)
        assert not (await under_way).degradations
    assert list(answer.degradations) == [viewer_pb2.DEGRADATION_POPULAR_FALLBACK]
    assert answer.items
