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
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER
from vireo.server.gateway.pods import TRY_HEADER
from vireo.server.gateway.service import gateway_pod
from vireo.v1 import ranking_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.ranking_pb2_grpc import (
    RankingServiceServicer,
    RankingServiceStub,
    add_RankingServiceServicer_to_server,
)
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest, ShadowComparison
from vireo.v1.release_pb2_grpc import ReleaseServiceStub


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


Answer = ranking_pb2.RankCandidatesResponse


class ShadowRanking(RankingServiceServicer):
    """A ranking pod whose answers for the shadow pool are changed, and late."""

    def __init__(self, target: str, change: Callable[[Answer], None], delay: float) -> None:
        self._target, self._change, self._delay = target, change, delay
        self.tries: dict[bool, bool] = {}
        """Whether calls for the shadow pool, and others, limit the time of one try."""

    async def RankCandidates(  # noqa: N802
        self, request: ranking_pb2.RankCandidatesRequest, context: Any
    ) -> Answer:
        async with grpc.aio.insecure_channel(self._target) as channel:
            answer: Answer = await RankingServiceStub(channel).RankCandidates(request)
        metadata = dict(context.invocation_metadata())
        for_shadow = metadata.get("x-vireo-pool") == "shadow"
        self.tries[for_shadow] = TRY_HEADER in metadata
        if for_shadow:
            await asyncio.sleep(self._delay)
            self._change(answer)
        return answer


@asynccontextmanager
async def shadow_ranking(
    target: str, change: Callable[[Answer], None] = lambda _: None, delay: float = 0.0
) -> AsyncIterator[tuple[str, ShadowRanking]]:
    """Yield a pod that forwards to `target` and changes the shadow's response, and its address."""
    server = grpc.aio.server()
    pod = ShadowRanking(target, change, delay)
    add_RankingServiceServicer_to_server(pod, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", pod
    await server.stop(None)


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
            shadow_ranking(chain.ranking, change) as (ranking, _),
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
    async with (
        shadow_ranking(chain.ranking, delay=1.3 * limit) as (ranking, pod),
        gateway_channel(chain, ranking, ranking_timeout=limit) as channel,
    ):
        shadow = await recommend_until(channel, lambda shadow: shadow.compared > 0)
    assert shadow.shadow_time.ToTimedelta().total_seconds() > limit
    assert pod.tries == {False: True, True: False}, "one pod of the shadow has all of the time"
