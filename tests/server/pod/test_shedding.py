"""Calls that are shed, over real sockets: when, with what answer, and what never is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.builders.busy import busy
from tests.builders.columns import request_for_one_video
from tests.builders.refusals import failure_of, retry_seconds
from tests.builders.rpc import serving
from tests.builders.samples import Grown
from tests.builders.waiting import until
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc.admission import MIN_LATE
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

pytestmark = pytest.mark.slow

METHOD = "/vireo.v1.RankingService/RankCandidates"


async def test_a_call_that_would_wait_too_long_is_shed_with_a_hint_when_to_retry(
    release_folder: Path, grown: Grown
) -> None:
    queue = RunQueue(max_wait=0.01)
    async with serving(RANKING_POD, release_folder, queue=queue) as (_, channel):
        stub = RankingServiceStub(channel)
        async with busy(queue):
            waiting = [stub.RankCandidates(request_for_one_video()) for _ in range(MIN_LATE)]
            await until(lambda: queue.queued == 1 + MIN_LATE)
            await asyncio.sleep(0.02)
            error = await failure_of(stub.RankCandidates(request_for_one_video()))
        answers = await asyncio.gather(*waiting)
        assert all(answer.ids for answer in answers)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "queueing delay exceeded its target" in (error.details() or "")
    assert retry_seconds(error) == 0.1
    assert grown("vireo_rpcs_shed_total", method=METHOD, reason="queue") == 1


async def test_a_call_beyond_the_number_is_not_even_read_and_the_pod_still_tells_of_itself(
    release_folder: Path,
) -> None:
    queue = RunQueue()
    async with serving(RANKING_POD, release_folder, max_calls=1, queue=queue) as (_, channel):
        no_message: Any = channel.unary_unary(METHOD)
        read = await failure_of(no_message(b"\xff no message"))
        async with busy(queue):
            under_way = RankingServiceStub(channel).RankCandidates(request_for_one_video())
            await until(lambda: queue.queued == 2)
            error = await failure_of(no_message(b"\xff no message"))
            release = await ReleaseServiceStub(channel).GetServingRelease(
                GetServingReleaseRequest()
            )
            health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            status = await health.Check(health_pb2.HealthCheckRequest())
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            [listed] = [each async for each in reflection.ServerReflectionInfo(iter([asked]))]
        assert (await under_way).ids
    assert read.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too many calls are in flight" in (error.details() or "")
    assert release.release_id == "tiny-1"
    assert status.status == health_pb2.HealthCheckResponse.SERVING
    assert listed.list_services_response.service
