"""What Envoy does with calls that pods shed, that it sheds itself, and that fail: it counts all."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.builders.edge import Edge, RestAnswer, running_edge
from tests.builders.refusals import status_of
from vireo.server.control import resources, templates
from vireo.server.control.mesh import Pool
from vireo.server.rpc.errors import ShedError, ShedReason, invalid_argument, unavailable
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = pytest.mark.integration

CANDIDATES = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer_pb2.ViewerFeatures(), count=1)
CALLS = 30
SHED = ShedError(ShedReason.QUEUE)
SLATE = "/v1/viewers/1/recommendations"
HEDGED_SECONDS = 0.5
"""After which the edge asks another gateway as well: the most of `envoy/edge_request.lua`."""
ONE_TRY = (("x-envoy-upstream-rq-per-try-timeout-ms", "60000"),)
"""Or a pod that is slow for a moment would be taken for one that hangs."""


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path, gateway_count=2) as edge:
        for gateway in edge.gateways:
            gateway.failure = SHED
        for pod in edge.candidates:
            pod.failure = SHED
        yield edge


async def failures(calls: list[grpc.aio.UnaryUnaryCall[Any, Any]]) -> list[grpc.aio.AioRpcError]:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]


async def test_calls_that_gateways_shed_go_back_with_a_hint_and_are_not_retried(edge: Edge) -> None:
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)
        errors: list[grpc.aio.AioRpcError] = []
        async with asyncio.timeout(120):
            for number in itertools.count():
                request = pb.RecommendRequest(viewer_id=str(number))
                began = time.monotonic()
                [error] = await failures([stub.Recommend(request, timeout=60)])
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if time.monotonic() - began >= HEDGED_SECONDS:
                    continue  # of a busy machine the other gateway may have been asked as well
                assert [*requests(edge)].count(request) == 1
                errors.append(error)
                if len(errors) == CALLS:
                    break
    [hint] = status_of(errors[0]).details
    assert hint.Unpack(error_details_pb2.RetryInfo())
    answer = await edge.rest(SLATE)
    assert (answer.status, answer.json["code"]) == (429, 8)
    kind = "type.googleapis.com/google.rpc.RetryInfo"
    assert answer.json["details"] == [{"@type": kind, "retryDelay": "0.100s"}]


def requests(edge: Edge) -> Iterator[pb.RecommendRequest]:
    """All that any gateway was asked."""
    for gateway in edge.gateways:
        yield from gateway.requests


async def test_calls_that_candidate_pods_shed_are_not_retried_and_eject_no_pod(edge: Edge) -> None:
    target = f"127.0.0.1:{edge.settings.candidate_port}"
    async with grpc.aio.insecure_channel(target) as channel:
        stub = CandidateServiceStub(channel)
        calls = [
            stub.RetrieveCandidates(CANDIDATES, timeout=60, metadata=ONE_TRY) for _ in range(CALLS)
        ]
        errors = await failures(calls)
        assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert sum(pod.calls for pod in edge.candidates) == len(errors) == CALLS
        for pod in edge.candidates:
            pod.failure = None
        for _ in range(20):
            await stub.RetrieveCandidates(CANDIDATES, timeout=60, metadata=ONE_TRY)
    assert all(pod.calls > CALLS / 4 for pod in edge.candidates), "both are still asked"


async def test_more_calls_than_are_taken_on_are_exhausted_to_rest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = templates.filled

    def with_one_call_at_a_time(name: str, values: dict[str, object]) -> dict[str, Any]:
        document = filled(name, values)
        if name == "cluster":
            document["circuit_breakers"]["thresholds"][0]["max_requests"] = 1
        return document

    monkeypatch.setattr(resources, "filled", with_one_call_at_a_time)
    async with running_edge(tmp_path, 1) as edge:
        edge.gateways[0].delay = 0.3
        refused: list[RestAnswer] = []
        async with asyncio.timeout(60):
            while not refused:
                answers = await asyncio.gather(*(edge.rest(SLATE) for _ in range(8)))
                refused = [each for each in answers if each.status != 200]
    assert {(each.status, each.json["code"]) for each in refused} == {(429, 8)}


async def test_an_outage_logs_a_sample_of_the_failed_requests(tmp_path: Path) -> None:
    requests, nobody = 300, {"otlp_endpoint": "http://127.0.0.1:1"}
    async with running_edge(tmp_path, 1, control=nobody) as edge:
        edge.gateways[0].failure = unavailable("draining", timedelta(seconds=1))
        answers = {(await edge.rest(SLATE)).status for _ in range(requests)}
    assert answers in ({503}, {503, 504}), "a busy machine may let one wait for too long"
    # Envoy writes what it holds back when it ends.
    lines = [
        json.loads(line)
        for line in (tmp_path / "envoy.log").read_text().splitlines()
        if line.startswith("{")
    ]
    # One in ten: the chance of none, and of half of them, is nil.
    assert 0 < len(lines) < requests / 2
    assert {line["status"] for line in lines} <= answers
    assert all(len(line["request_id"]) == 36 and len(line["trace_id"]) == 32 for line in lines)


_BY_STATUS = r"_cluster_grpc_RecommendationService_Recommend_(\d+|total)"
_BY_REST = r"_vhost_vcluster_upstream_rq_(xx)"


async def counted(edge: Edge) -> Counter[str]:
    """Slates by gRPC status, in total, and, as "xx", by REST without a gateway."""
    url = f"http://127.0.0.1:{edge.settings.admin_port}/stats/prometheus"
    with await asyncio.to_thread(urllib.request.urlopen, url) as response:
        text = response.read().decode()
    found = [
        *re.findall(rf"^envoy{_BY_STATUS}{{[^}}]*}} (\d+)$", text, re.M),
        *re.findall(rf'^envoy{_BY_REST}{{.*class="5".*"rest_slates"[^}}]*}} (\d+)$', text, re.M),
    ]
    return Counter({name: int(count) for name, count in found})


async def test_slates_that_no_gateway_answers_are_counted_with_those_that_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.control.control._EMPTY_SECONDS", 0.1)
    async with (
        running_edge(tmp_path, 1) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        [gateway] = edge.gateways

        async def statuses() -> set[object]:
            """Ask for a slate by gRPC and by REST."""
            stub = RecommendationServiceStub(channel)
            call = stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=20)
            return {await call.code(), (await edge.rest(SLATE)).status}

        assert await statuses() == {grpc.StatusCode.OK, 200}
        gateway.failure = invalid_argument([("viewer_id", "strange")])
        assert await statuses() == {grpc.StatusCode.INVALID_ARGUMENT, 400}
        assert await counted(edge) == {"0": 2, "3": 2, "total": 4}
        before = len(gateway.requests)
        edge.control.discovery.set(Pool("gateway"))
        gateway.failure = None
        async with asyncio.timeout(30):
            while await statuses() != {grpc.StatusCode.UNAVAILABLE, 503}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        after = await counted(edge)
        answered = len(gateway.requests) - before
        assert after["0"] - 2 == answered
        assert after["14"] >= 1
        assert after["xx"] >= 1
        assert after["total"] == after["0"] + after["3"] + after["14"]
