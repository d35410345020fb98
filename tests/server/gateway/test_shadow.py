"""A gateway that repeats its requests: real pods answer both, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog

from tests.builders.chain import Chain, gateway_settings
from tests.builders.relay import Relay, relaying
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER
from vireo.server.gateway.pods import TRY_HEADER
from vireo.server.gateway.service import gateway_pod
from vireo.v1 import ranking_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest, ShadowComparison
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

Answer = ranking_pb2.RankCandidatesResponse


async def shadow_of(channel: grpc.aio.Channel) -> ShadowComparison:
    release = await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
    return release.shadow


@asynccontextmanager
async def gateway_channel(
    chain: Chain, ranking: str, **changes: Any
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a gateway that repeats all of its requests."""
    targets = chain.candidate, ranking
    settings = gateway_settings(chain.features, *targets, shadow_share=1.0, **changes)
    async with serving(gateway_pod(settings), chain.release) as (_, channel):
        yield channel


async def recommend_until(
    channel: grpc.aio.Channel, condition: Callable[[ShadowComparison], bool]
) -> ShadowComparison:
    """Asks for full slates until the comparison is as wished."""
    stub = RecommendationServiceStub(channel)
    async with asyncio.timeout(60):
        while not condition(shadow := await shadow_of(channel)):
            await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))
            await asyncio.sleep(0.02)
    return shadow


async def test_repeated_requests_are_compared_and_shown(
    chain: Chain,
) -> None:
    async with gateway_channel(chain, chain.ranking) as channel:
        shadow = await recommend_until(channel, lambda shadow: shadow.compared >= 5)
    assert shadow.release_id == "tiny-1"
    # The same pods answered both.
    assert shadow.mean_overlap_10 == pytest.approx(1.0)
    assert shadow.mean_score_shift == pytest.approx(0.0, abs=1e-6)
    assert shadow.shadow_time.ToTimedelta().total_seconds() > 0
    assert not shadow.failed


def without_scores(answer: Answer) -> None:
    del answer.scores[:]


def of_another_release(answer: Answer) -> None:
    answer.release_id = "another"


@pytest.mark.parametrize(
    ("change", "garbage"), [(without_scores, True), (of_another_release, False)]
)
async def test_incomparable_responses_are_counted_and_others_compared(
    chain: Chain,
    change: Callable[[Answer], None],
    garbage: bool,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with (
            relaying(Relay(chain.ranking, change, pool="shadow")) as ranking,
            gateway_channel(chain, ranking) as channel,
        ):
            # More than there are workers: none has ended.
            shadow = await recommend_until(channel, lambda shadow: shadow.failed >= 5)
    assert not shadow.compared
    assert any(line["event"] == "bad answer of a pod" for line in logs) == garbage
    assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_shadow_that_viewers_would_not_wait_for_is_measured(
    chain: Chain,
) -> None:
    limit = 1.0
    relay = Relay(chain.ranking, delay=1.3 * limit, pool="shadow")
    async with (
        relaying(relay) as ranking,
        gateway_channel(chain, ranking, ranking_timeout=limit) as channel,
    ):
        shadow = await recommend_until(channel, lambda shadow: shadow.compared > 0)
    assert shadow.shadow_time.ToTimedelta().total_seconds() > limit
    tries = {each.get("x-vireo-pool"): TRY_HEADER in each for each in relay.metadata}
    assert tries == {None: True, "shadow": False}, "one pod of the shadow has all of the time"
