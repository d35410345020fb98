"""A gateway that repeats its requests: real pods answer both, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest, ShadowComparison
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

from server.gateway.service import gateway_pod
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER
from tests.server.gateway.conftest import gateway_settings


async def shadow_of(channel: grpc.aio.Channel) -> ShadowComparison:
    release = await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
    return release.shadow


@asynccontextmanager
async def gateway_channel(
    release: Path, features: Path, candidate: str, ranking: str, **changes: Any
) -> AsyncIterator[grpc.aio.Channel]:
    settings = gateway_settings(features, candidate, ranking, **changes)
    async with serving(gateway_pod(settings), release) as (_, channel):
        yield channel


async def test_repeated_requests_are_compared_and_shown(
    release: Path, features: Path, candidate_target: str, ranking_target: str
) -> None:
    targets = (release, features, candidate_target, ranking_target)
    async with gateway_channel(*targets, shadow_share=1.0) as channel:
        stub = RecommendationServiceStub(channel)
        for _ in range(5):
            assert (await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))).items
        shadow = await shadow_of(channel)
        async with asyncio.timeout(20):
            while shadow.compared + shadow.dropped < 5:
                await asyncio.sleep(0.05)
                shadow = await shadow_of(channel)
        assert shadow.compared >= 1
        assert shadow.release_id == "tiny-1"
        # The same pods answered both.
        assert shadow.mean_overlap_10 == pytest.approx(1.0)
        assert shadow.mean_score_shift == pytest.approx(0.0, abs=1e-6)
        assert shadow.shadow_time.ToTimedelta().total_seconds() > 0
        assert not shadow.failed


async def test_share_of_zero_repeats_nothing(
    release: Path, features: Path, candidate_target: str, ranking_target: str
) -> None:
    targets = (release, features, candidate_target, ranking_target)
    async with gateway_channel(*targets) as channel:
        await RecommendationServiceStub(channel).Recommend(pb.RecommendRequest(viewer_id=VIEWER))
        release_state = await ReleaseServiceStub(channel).GetServingRelease(
            GetServingReleaseRequest()
        )
        assert not release_state.HasField("shadow")
