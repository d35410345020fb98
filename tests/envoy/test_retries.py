"""What Envoy does about pods that drain, hang or are gone."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.builders.edge import Edge, counter, running_edge
from tests.builders.waiting import until
from vireo.server.rpc.errors import unavailable
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = pytest.mark.integration

DRAINING, BROKEN = unavailable("draining", timedelta(seconds=1)), RuntimeError("broken")
CANDIDATES = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer_pb2.ViewerFeatures(), count=1)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path, gateway_count=2) as edge:
        yield edge


@pytest.mark.parametrize(
    ("failure", "delay", "calls"),
    # Fewer than it takes to eject a pod that drains or hangs: each was retried.
    [(DRAINING, 0, 3), (None, math.inf, 3), (BROKEN, 0, 10)],
    ids=["drains", "hangs", "breaks"],
)
async def test_a_gateway_that_fails_costs_no_request(
    edge: Edge, failure: Exception | None, delay: float, calls: int
) -> None:
    edge.gateways[0].failure, edge.gateways[0].delay = failure, delay
    async with grpc.aio.insecure_channel(edge.address) as channel, asyncio.timeout(60):
        stub = RecommendationServiceStub(channel)
        while len(edge.gateways[0].requests) < calls:  # whichever is drawn
            answer = await stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=10)
            assert answer.release_id == "gateway-1"


@pytest.mark.parametrize(
    ("failure", "delay", "calls"), [(None, math.inf, 1), (BROKEN, 0, 10)], ids=["hangs", "breaks"]
)
async def test_a_candidate_pod_that_fails_costs_no_call(
    edge: Edge, failure: Exception | None, delay: float, calls: int
) -> None:
    failing = edge.candidates[0]
    failing.failure, failing.delay = failure, delay
    target = f"127.0.0.1:{edge.settings.candidate_port}"
    async with grpc.aio.insecure_channel(target) as channel, asyncio.timeout(60):
        stub = CandidateServiceStub(channel)
        passed_over = 0
        while passed_over < calls:
            asked = failing.calls
            try:
                answer = await stub.RetrieveCandidates(CANDIDATES, timeout=10)
            except grpc.aio.AioRpcError:
                assert failure is None, "the tries of a busy machine may all be over too soon"
                continue
            assert answer.release_id == "candidate-1"
            passed_over += failing.calls > asked


async def test_a_call_fails_clearly_if_every_gateway_drains(edge: Edge) -> None:
    for gateway in edge.gateways:
        gateway.failure = DRAINING
    async with grpc.aio.insecure_channel(edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await RecommendationServiceStub(channel).Recommend(pb.RecommendRequest(viewer_id="1"))
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert raised.value.details() == "draining"


async def test_a_caller_with_little_time_has_a_gateway_that_hangs_passed_over_sooner(
    edge: Edge,
) -> None:
    edge.gateways[0].delay = math.inf
    passed_over = False
    async with grpc.aio.insecure_channel(edge.address) as channel, asyncio.timeout(60):
        stub = RecommendationServiceStub(channel)
        while not passed_over:
            asked = len(edge.gateways[0].requests)
            with contextlib.suppress(grpc.aio.AioRpcError):  # where the machine is busy
                # Less than the longest that a try may take.
                await stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=0.4)
                passed_over = len(edge.gateways[0].requests) > asked


async def test_slow_gateways_still_answer_and_superseded_tries_are_cancelled(
    edge: Edge,
) -> None:
    for gateway in edge.gateways:
        gateway.delay = 3.0  # of the first; whoever is asked as well is slower yet

    def asked_so_far() -> int:
        return sum(len(gateway.requests) for gateway in edge.gateways)

    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)
        call = asyncio.ensure_future(stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=20))
        await until(lambda: asked_so_far() > 0)
        for gateway in edge.gateways:
            gateway.delay = math.inf
        await call
    asked = asked_so_far()
    assert 2 <= asked <= 3
    await until(lambda: sum(gateway.cancelled for gateway in edge.gateways) == asked - 1)


async def test_the_inner_hop_names_the_pod_that_answered(edge: Edge) -> None:
    ports = edge.settings.pod_ports("candidate")
    pods = {pod.name: f"127.0.0.1:{port}" for pod, port in zip(edge.candidates, ports, strict=True)}
    named: dict[str, str] = {}
    target = f"127.0.0.1:{edge.settings.candidate_port}"
    async with grpc.aio.insecure_channel(target) as channel, asyncio.timeout(60):
        while len(named) < len(pods):
            call = CandidateServiceStub(channel).RetrieveCandidates(CANDIDATES)
            answer = await call
            named[answer.release_id] = str((await call.initial_metadata())["x-vireo-pod"])
    assert named == pods


@pytest.mark.parametrize(("header", "tries"), [("10000", 1), ("20", 4)])
async def test_a_caller_sets_how_long_one_try_takes(edge: Edge, header: str, tries: int) -> None:
    for pod in edge.candidates:
        pod.delay = math.inf
    target = f"127.0.0.1:{edge.settings.candidate_port}"
    async with grpc.aio.insecure_channel(target) as channel:
        metadata = (("x-envoy-upstream-rq-per-try-timeout-ms", header),)
        with pytest.raises(grpc.aio.AioRpcError):
            await CandidateServiceStub(channel).RetrieveCandidates(
                CANDIDATES, timeout=2, metadata=metadata
            )
    # By Envoy's count: a pod that is busy sees nothing of a try that is over so soon.
    assert await counter(edge, "candidate", "upstream_rq_retry") == tries - 1


async def test_connections_that_reach_their_age_under_load_cost_no_call(tmp_path: Path) -> None:
    async with running_edge(tmp_path, 1, pod={"max_connection_age": 0.2}) as edge:
        target = f"127.0.0.1:{edge.settings.candidate_port}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = CandidateServiceStub(channel)
            # However quick the machine is: as many calls as it takes several connections to age.
            async with asyncio.timeout(30):
                while await counter(edge, "candidate", "upstream_cx_total") <= 4:
                    for _ in range(10):
                        calls = [stub.RetrieveCandidates(CANDIDATES, timeout=10) for _ in range(10)]
                        await asyncio.gather(*calls)
