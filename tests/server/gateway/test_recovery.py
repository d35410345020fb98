"""Pods go and come back: what is declared ends with its cause."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders.chain import POPULAR, SKIPPED, Chain
from tests.builders.rpc import rpc_settings, serving
from tests.builders.tiny_home import VIEWER
from vireo.ops.stack.ports import free_port_base
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.ranking.service import RANKING_POD
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

pytestmark = pytest.mark.slow

REQUEST = pb.RecommendRequest(viewer_id=VIEWER, explain=True)
Degradations = Sequence[viewer_pb2.Degradation.ValueType]


async def ask_until(
    stub: RecommendationServiceAsyncStub, degradations: Degradations
) -> pb.RecommendResponse:
    """The first answer with exactly these degradations."""
    async with asyncio.timeout(60):
        while True:
            response = await stub.Recommend(REQUEST, timeout=60)
            assert len(response.items) == 10
            if list(response.degradations) == degradations:
                return response
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("kind", "declared"), [(CANDIDATE_POD, POPULAR), (RANKING_POD, SKIPPED)])
async def test_pods_that_are_back_are_used_again(
    chain: Chain,
    kind: Pod[Any],
    declared: Degradations,
) -> None:
    port = free_port_base()
    async with chain.gateway(**{kind.kind: f"127.0.0.1:{port}"}) as stub:
        for _ in range(2):
            await ask_until(stub, declared)
            async with serving(kind, chain.release, settings=rpc_settings(port=port)):
                await ask_until(stub, [])
        await ask_until(stub, declared)
