"""Batches at the edge: streams of minutes, with larger requests than those of other calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.builders.edge import Edge, running_edge
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TRY = 0.5
"""Seconds after which the edge asks another gateway for a slate."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge"), gateway_count=1) as edge:
        yield edge


@pytest_asyncio.fixture(loop_scope="module")
async def stub(edge: Edge) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(edge.address) as channel:
        yield RecommendationServiceStub(channel)


async def test_a_batch_lasts_longer_than_a_try_and_the_default_deadline_of_calls(
    edge: Edge, stub: Any
) -> None:
    edge.gateways[0].delay = 1.2 * TRY
    try:
        call = stub.BatchRecommend(pb.BatchRecommendRequest(viewer_ids=["a", "b", "c"]))
        assert [each.viewer_id async for each in call] == ["a", "b", "c"]
    finally:
        edge.gateways[0].delay = 0
    assert "x-envoy-upstream-rq-per-try-timeout-ms" not in edge.gateways[0].metadata


async def test_the_largest_batch_passes_and_one_beyond_two_mebibytes_does_not(stub: Any) -> None:
    viewers = [f"{number:0128d}" for number in range(10_000)]
    call = stub.BatchRecommend(pb.BatchRecommendRequest(viewer_ids=viewers))
    assert [each.viewer_id async for each in call] == viewers
    too_large = pb.BatchRecommendRequest(viewer_ids=["v" * (1 << 21), *viewers])
    assert await stub.BatchRecommend(too_large).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_callers_deadline_ends_a_batch(edge: Edge, stub: Any) -> None:
    edge.gateways[0].delay = 60
    try:
        call = stub.BatchRecommend(pb.BatchRecommendRequest(viewer_ids=["a"]), timeout=0.5)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        edge.gateways[0].delay = 0
