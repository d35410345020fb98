"""What Envoy does with calls that pods shed: it passes them on, and never tries another pod."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.builders.edge import Edge, running_edge
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = pytest.mark.integration

CANDIDATES = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer_pb2.ViewerFeatures(), count=1)
CALLS = 30
HEDGED_SECONDS = 0.5
"""After which the edge asks another gateway as well: the most of `envoy/edge_request.lua`."""
ONE_TRY = (("x-envoy-upstream-rq-per-try-timeout-ms", "60000"),)
"""Or a pod that is slow for a moment would be taken for one that hangs."""


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path, gateway_count=2) as edge:
        for gateway in edge.gateways:
            gateway.sheds = True
        for pod in edge.candidates:
            pod.sheds = True
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
    details = dict(errors[0].trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    [hint] = status_pb2.Status.FromString(details).details
    assert hint.Unpack(error_details_pb2.RetryInfo())


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
            pod.sheds = False
        for _ in range(20):
            await stub.RetrieveCandidates(CANDIDATES, timeout=60, metadata=ONE_TRY)
    assert all(pod.calls > CALLS / 4 for pod in edge.candidates), "both are still asked"


async def test_rest_callers_get_429_with_the_hint(edge: Edge) -> None:
    def ask() -> tuple[int, Any]:
        connection = http.client.HTTPConnection(edge.address, timeout=30)
        connection.request("GET", "/v1/viewers/1/recommendations")
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    status, body = await asyncio.to_thread(ask)
    assert status == 429
    assert body["code"] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    [hint] = body["details"]
    assert hint == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.100s"}
