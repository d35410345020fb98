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
from prometheus_client import REGISTRY

from tests.builders.busy import busy
from tests.builders.columns import request_for_one_video
from tests.builders.refusals import failure_of, retry_seconds
from tests.builders.rpc import serving
from tests.builders.waiting import until
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc.admission import MIN_LATE
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

pytestmark = pytest.mark.slow

METHOD = "/vireo.v1.RankingService/RankCandidates"


def shed(reason: str) -> float:
    labels = {"method": METHOD, "reason": reason}
    return REGISTRY.get_sample_value("vireo_rpcs_shed_total", labels) or 0.0


async def test_a_call_that_would_wait_too_long_is_shed_with_a_hint_when_to_retry(
    release_folder: Path,
) -> None:
    queue, before = RunQueue(max_wait=0.01), shed("queue")
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
    assert shed("queue") == before + 1


async def test_a_call_that_is_shed_is_not_even_read(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder, max_calls=1, queue=RunQueue()) as (
        _,
        channel,
    ):
        method: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(METHOD)
        assert (await failure_of(method(b"\xff no message"))).code() is (
            grpc.StatusCode.INVALID_ARGUMENT
        )
    queue = RunQueue()
    async with serving(RANKING_POD, release_folder, max_calls=1, queue=queue) as (_, channel):
        async with busy(queue):
            under_way = RankingServiceStub(channel).RankCandidates(request_for_one_video())
            await until(lambda: queue.queued == 2)
            method = channel.unary_unary(METHOD)
            error = await failure_of(method(b"\xff no message"))
        assert (await under_way).ids
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too many calls are in flight" in (error.details() or "")


async def test_a_pod_that_sheds_still_answers_for_its_health_reflection_and_release(
    release_folder: Path,
) -> None:
    queue = RunQueue()
    async with (
        serving(RANKING_POD, release_folder, max_calls=1, queue=queue) as (_, channel),
        busy(queue),
    ):
        under_way = RankingServiceStub(channel).RankCandidates(request_for_one_video())
        await until(lambda: queue.queued == 2)
        await failure_of(RankingServiceStub(channel).RankCandidates(request_for_one_video()))
        release = await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        status = await health.Check(health_pb2.HealthCheckRequest())
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        [listed] = [each async for each in reflection.ServerReflectionInfo(iter([asked]))]
        under_way.cancel()
    assert release.release_id == "tiny-1"
    assert status.status == health_pb2.HealthCheckResponse.SERVING
    assert listed.list_services_response.service
