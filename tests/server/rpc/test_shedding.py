"""Calls that are shed, over real sockets: when, with what answer, and what never is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY, CollectorRegistry
from vireo.v1 import ranking_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

from server.features.keys import video_key
from server.ranking.service import RANKING_POD
from server.rpc.errors import ShedReason
from server.rpc.gradient import REST
from server.rpc.shedding import LoadCollector, Shedder, waited_seconds
from server.rpc.worker import Worker
from tests.builders.busy import PATIENT, busy
from tests.builders.rpc import rpc_settings, serving
from tests.builders.waiting import until

METHOD = "/vireo.v1.RankingService/RankCandidates"


def request() -> ranking_pb2.RankCandidatesRequest:
    asked = ranking_pb2.RankCandidatesRequest(
        keys=[video_key("video-1")],
        scores=[1],
        co_watch_scores=[0],
        ease_scores=[0],
        source_masks=[2],
        page_size=1,
    )
    asked.viewer.SetInParent()
    return asked


async def failure_of(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def retry_delay(error: grpc.aio.AioRpcError) -> int:
    """Milliseconds after which the caller may try again, by the error's RetryInfo."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    info = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return info.retry_delay.ToMilliseconds()


def shed(reason: str) -> float:
    labels = {"method": METHOD, "reason": reason}
    return REGISTRY.get_sample_value("vireo_shed_total", labels) or 0.0


async def test_a_call_beyond_the_queue_is_shed_with_a_hint_when_to_retry(
    release_folder: Path,
) -> None:
    worker, before = Worker(), shed("queue")
    async with serving(RANKING_POD, release_folder, worker=worker) as (_, channel):
        stub = RankingServiceStub(channel)
        async with busy(worker):
            await until(lambda: worker.refusal(math.inf) is ShedReason.QUEUE)
            error = await failure_of(stub.RankCandidates(request()))
        assert (await stub.RankCandidates(request())).ids
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "more calls wait than can be answered soon" in (error.details() or "")
    assert retry_delay(error) == 100
    assert shed("queue") == before + 1


async def test_a_call_whose_deadline_passes_before_its_turn_is_shed_at_once(
    release_folder: Path,
) -> None:
    worker, before = Worker(PATIENT), shed("deadline")
    async with (
        serving(RANKING_POD, release_folder, worker=worker) as (_, channel),
        busy(worker),
    ):
        worker.limit.ran(1000.0)
        error = await failure_of(RankingServiceStub(channel).RankCandidates(request(), timeout=500))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert shed("deadline") == before + 1


async def test_calls_that_wait_long_to_be_taken_up_are_shed_until_they_no_longer_do(
    release_folder: Path,
) -> None:
    # The wait is told by what is left of the timeout that was copied: 100 of 130 seconds here.
    late = (("x-vireo-timeout", "130S"),)
    before = shed("late")
    async with serving(RANKING_POD, release_folder) as (_, channel):
        stub = RankingServiceStub(channel)
        taken = 0
        async with asyncio.timeout(60):
            while shed("late") == before:
                try:
                    await stub.RankCandidates(request(), timeout=100, metadata=late)
                    taken += 1
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
        assert taken, "a burst is taken"
        prompt = (("x-vireo-timeout", "1S"),)
        assert (await stub.RankCandidates(request(), timeout=100, metadata=prompt)).ids
        assert (await stub.RankCandidates(request())).ids, "whose wait nobody knows"


@pytest.mark.parametrize(("apart", "refused"), [(0.01, False), (0.002, True)])
def test_late_calls_are_shed_only_behind_many_others(apart: float, refused: bool) -> None:
    shedder = Shedder(100)
    reasons = [shedder.refusal(call * apart, 0.06, math.inf) for call in range(200)]
    assert (ShedReason.LATE in reasons) is refused


async def test_a_call_that_is_shed_is_not_even_read(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder, max_calls=1, worker=Worker(PATIENT)) as (
        _,
        channel,
    ):
        method: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(METHOD)
        assert (await failure_of(method(b"\xff no message"))).code() is (
            grpc.StatusCode.INVALID_ARGUMENT
        )
    worker = Worker(PATIENT)
    async with serving(RANKING_POD, release_folder, max_calls=1, worker=worker) as (_, channel):
        async with busy(worker):
            under_way = RankingServiceStub(channel).RankCandidates(request())
            await until(lambda: worker.limit.queued == 2)
            method = channel.unary_unary(METHOD)
            error = await failure_of(method(b"\xff no message"))
        assert (await under_way).ids
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too many calls are under way" in (error.details() or "")


async def test_health_reflection_and_release_service_are_never_shed(release_folder: Path) -> None:
    worker = Worker()
    async with (
        serving(RANKING_POD, release_folder, max_calls=1, worker=worker) as (_, channel),
        busy(worker),
    ):
        await until(lambda: worker.refusal(math.inf) is not None)
        await failure_of(RankingServiceStub(channel).RankCandidates(request()))
        release = await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        status = await health.Check(health_pb2.HealthCheckRequest())
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        [listed] = [each async for each in reflection.ServerReflectionInfo(iter([asked]))]
    assert release.release_id == "tiny-1"
    assert status.status == health_pb2.HealthCheckResponse.SERVING
    assert listed.list_services_response.service


async def test_beyond_the_hard_limit_of_the_server_calls_are_refused(release_folder: Path) -> None:
    settings = rpc_settings(max_concurrent_rpcs=1)
    async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        error = await failure_of(RankingServiceStub(channel).RankCandidates(request()))
        watch.cancel()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_pod_that_drains_still_sheds_and_then_refuses(release_folder: Path) -> None:
    worker = Worker()
    settings = rpc_settings(drain_seconds=3.0, grace_seconds=60)
    async with serving(RANKING_POD, release_folder, settings=settings, worker=worker) as (
        server,
        channel,
    ):
        stub = RankingServiceStub(channel)
        async with busy(worker):
            under_way = stub.RankCandidates(request())
            await until(lambda: worker.limit.queued == 2)
            await until(lambda: worker.refusal(math.inf) is ShedReason.QUEUE)
            draining = asyncio.create_task(server.drain())
            await until(lambda: not server.serving)
            codes = [(await failure_of(stub.RankCandidates(request()))).code()]
            async with asyncio.timeout(60):
                while codes[-1] is not grpc.StatusCode.UNAVAILABLE:
                    codes.append((await failure_of(stub.RankCandidates(request()))).code())
        assert (await under_way).ids
        await draining
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize(
    ("timeout", "left", "waited"),
    [
        ("2S", 1.5, 0.5),
        ("1500m", 1.4, 0.1),
        ("250000u", 0.05, 0.2),
        ("1M", 59, 1),
        ("1S", 1.2, 0),
        ("1S", None, None),
        ("", 1, None),
        ("S", 1, None),
        ("-", 1, None),
        ("12", 1, None),
        ("-1S", 1, None),
        ("1x", 1, None),
        ("123456789S", 1, None),
    ],
)
def test_a_wait_is_told_by_what_is_left_of_a_grpc_timeout(
    timeout: str, left: float | None, waited: float | None
) -> None:
    metadata = (("x-request-id", "1S"), ("x-vireo-timeout", timeout))
    expected = waited if waited is None else pytest.approx(waited)
    assert waited_seconds(metadata, left) == expected
    assert waited_seconds((), left) is None


def samples(collector: LoadCollector) -> Iterator[tuple[str, float]]:
    registry = CollectorRegistry()
    registry.register(collector)
    for family in registry.collect():
        for sample in family.samples:
            yield (
                ".".join([sample.name.removeprefix("vireo_"), *sample.labels.values()]),
                sample.value,
            )


async def test_gauges_tell_the_load_and_its_limits() -> None:
    worker = Worker()
    shedder = Shedder(7, worker=worker)
    shown = dict(samples(LoadCollector(shedder, worker)))
    assert shown["work_queued_limit"] == 7, "no more than may be under way"
    async with busy(worker):
        worker.limit.ran(0.05)
        shedder.arrivals.observe(1.0, 0.25)
        shedder.arrivals.observe(2.0, 0.25)
        shown = dict(samples(LoadCollector(shedder, worker)))
    assert shown == {
        "calls_under_way": 0,
        "work_queued": 1,
        "work_queued_limit": pytest.approx(4),
        "work_mean_seconds": pytest.approx(0.05),
        "queue_wait_seconds.arrivals": 0.25,
        "queue_wait_seconds.work": 0,
        "queue_standing.arrivals": 1,
        "queue_standing.work": 0,
    }


def test_where_the_time_of_calls_decides_its_limit_is_shown() -> None:
    shedder = Shedder(500, telling=lambda _: True)
    shown = dict(samples(LoadCollector(shedder, Worker())))
    assert (shown["calls_limit"], shown["calls_waiting"]) == (REST, 0)
