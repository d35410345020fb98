"""Pods go and come back, are slow and quick again: what is declared ends with its cause."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from prometheus_client import REGISTRY
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

from bench.stack import free_port_base
from server.candidate.service import CANDIDATE_POD
from server.pod.pod import Pod
from server.ranking.service import RANKING_POD
from tests.builders.relay import Relay, relaying
from tests.builders.rpc import rpc_settings, serving
from tests.builders.tiny_home import VIEWER
from tests.builders.waiting import until
from tests.server.gateway.conftest import gateway

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

pytestmark = pytest.mark.slow

REDUCED = viewer_pb2.DEGRADATION_CANDIDATES_REDUCED
SKIPPED = viewer_pb2.DEGRADATION_RANKING_SKIPPED
POPULAR = viewer_pb2.DEGRADATION_POPULAR_FALLBACK
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


@pytest.mark.parametrize(
    ("kind", "declared"), [(CANDIDATE_POD, [POPULAR]), (RANKING_POD, [SKIPPED])]
)
async def test_pods_that_are_back_are_used_again(
    release: Path,
    features: Path,
    candidate_target: str,
    ranking_target: str,
    kind: Pod[Any],
    declared: Degradations,
) -> None:
    port = free_port_base()
    targets = {"candidate": candidate_target, "ranking": ranking_target}
    targets[kind.kind] = f"127.0.0.1:{port}"
    async with gateway(release, features, **targets) as stub:
        for _ in range(2):
            await ask_until(stub, declared)
            async with serving(kind, release, settings=rpc_settings(port=port)):
                await ask_until(stub, [])
        await ask_until(stub, declared)


def factor() -> float:
    value = REGISTRY.get_sample_value("vireo_quality_factor")
    assert value is not None
    return value


@pytest.mark.parametrize("slow", ["candidate", "ranking"])
async def test_slow_pods_are_asked_for_fewer_candidates_and_quick_ones_for_all_again(
    release: Path, features: Path, candidate_target: str, ranking_target: str, slow: str
) -> None:
    targets = {"candidate": candidate_target, "ranking": ranking_target}
    relay = Relay(targets[slow])
    limit = 2.0  # seconds; what takes 0.6 of it is late
    changes: dict[str, Any] = {"retrieval_timeout": limit, "ranking_timeout": limit}
    changes |= {"candidates": 30, "min_candidates": 12}
    async with relaying(relay) as target:
        targets[slow] = target
        async with gateway(release, features, **targets, **changes) as stub:
            whole = await ask_until(stub, [])
            assert whole.explanation.candidates == 30
            await until(lambda: factor() == 1)
            # Late responses still arrive; on a busy machine not all of them.
            relay.delay = lambda _: 0.7 * limit
            async with asyncio.timeout(60):
                while factor() == 1:
                    fewer = await ask_until(stub, [REDUCED])
            assert 12 <= fewer.explanation.candidates < 30
            relay.delay = lambda _: 0.0
            whole = await ask_until(stub, [])
            assert whole.explanation.candidates == 30
            await until(lambda: factor() == 1)


async def test_a_page_is_full_however_few_candidates_are_asked_for(
    release: Path, features: Path, candidate_target: str, ranking_target: str
) -> None:
    relay = Relay(ranking_target, code=grpc.StatusCode.RESOURCE_EXHAUSTED)
    async with (
        relaying(relay) as ranking,
        gateway(
            release, features, candidate_target, ranking, candidates=30, min_candidates=1
        ) as stub,
    ):
        await ask_until(stub, [REDUCED, SKIPPED])
        async with asyncio.timeout(30):
            while True:  # until pods that have too many are asked for no more than a page
                response = await stub.Recommend(REQUEST, timeout=60)
                assert len(response.items) == 10
                if response.explanation.candidates == 10:
                    break
        relay.code = None
        await ask_until(stub, [])


async def test_dead_pods_are_no_reason_for_fewer_candidates(
    release: Path, features: Path, candidate_target: str
) -> None:
    async with gateway(release, features, candidate_target, "127.0.0.1:1") as stub:
        for _ in range(20):
            response = await stub.Recommend(REQUEST, timeout=60)
            assert list(response.degradations) == [SKIPPED]
