"""Deadlines and cancellations on their way through Envoy to the last pod."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from tests.builders.chain import NOWHERE, gateway_settings
from tests.builders.edge import Edge, running_edge
from tests.builders.releases import build_release
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER, build_tiny_features
from tests.builders.waiting import until
from vireo.server.gateway.service import gateway_pod
from vireo.server.home import Home
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

RECOMMEND = pb.RecommendRequest(viewer_id=VIEWER)
CANDIDATES = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer_pb2.ViewerFeatures(), count=1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    async with running_edge(folder, 1, control={"default_deadline": 7.5}) as edge:
        yield edge


async def test_a_caller_without_a_deadline_gets_the_default_one(edge: Edge) -> None:
    async with grpc.aio.insecure_channel(edge.address) as channel:
        await RecommendationServiceStub(channel).Recommend(RECOMMEND)
    assert 1 < (edge.gateways[0].left or 0) <= 7.5
    edge.gateways[0].left = None
    url = f"http://{edge.address}/v1/viewers/1/recommendations"
    await asyncio.to_thread(urllib.request.urlopen, url)
    assert 1 < (edge.gateways[0].left or 0) <= 7.5


async def test_a_caller_who_cancels_at_the_edge_cancels_the_gateways_call(edge: Edge) -> None:
    gateway = edge.gateways[0]
    gateway.hangs = True
    async with grpc.aio.insecure_channel(edge.address) as channel:
        asked = len(gateway.requests)
        call = RecommendationServiceStub(channel).Recommend(RECOMMEND, timeout=60)
        waiting = asyncio.ensure_future(call)
        await until(lambda: len(gateway.requests) > asked)
        call.cancel()
        await until(lambda: gateway.cancelled == 1)
        await asyncio.gather(waiting, return_exceptions=True)
    gateway.hangs = False


async def test_a_caller_who_cancels_at_a_gateway_cancels_the_candidate_pods_call(
    edge: Edge, tmp_path: Path
) -> None:
    features = build_tiny_features(Home(tmp_path / "home")).parent
    inner = f"127.0.0.1:{edge.settings.candidate_port}"
    settings = gateway_settings(features, inner, NOWHERE)
    for pod in edge.candidates:
        pod.hangs, pod.calls = True, 0
    release = build_release(tmp_path / "release")
    async with serving(gateway_pod(settings), release) as (_, channel):
        call = RecommendationServiceStub(channel).Recommend(RECOMMEND, timeout=60)
        waiting = asyncio.ensure_future(call)
        await until(lambda: sum(pod.calls for pod in edge.candidates) == 1)
        call.cancel()
        await until(lambda: sum(pod.cancelled for pod in edge.candidates) == 1)
        await asyncio.gather(waiting, return_exceptions=True)
    assert sum(pod.calls for pod in edge.candidates) == 1, "nor was another pod asked"
    for pod in edge.candidates:
        pod.hangs = False
