"""A gateway before real candidate and ranking pods, all in this process, over real Feast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.builders.releases import build_release
from tests.builders.rpc import serving
from tests.builders.s3 import unreachable_s3
from tests.builders.tiny_home import build_tiny_features
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.gateway.service import gateway_pod
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.home import Home
from vireo.server.ranking.service import RANKING_POD
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

    GatewayStub: TypeAlias = RecommendationServiceAsyncStub
else:
    GatewayStub = Any  # which only type checkers know

NOWHERE = "127.0.0.1:1"
"""A target on which nothing listens."""
SKIPPED = [viewer_pb2.DEGRADATION_RANKING_SKIPPED]
POPULAR = [viewer_pb2.DEGRADATION_POPULAR_FALLBACK]
AWAY = [("", []), ("ranking", SKIPPED), ("candidate", POPULAR)]
"""The kind of pods that is away, if one is, and what slates declare then."""


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("gateway-release"))


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Feast repositories, which holds that of the tiny data set."""
    return build_tiny_features(Home(tmp_path_factory.mktemp("gateway-home"))).parent


@pytest.fixture
async def candidate_target(release: Path) -> AsyncIterator[str]:
    # A pod that sheds nothing, however long a busy machine takes for one call before the next.
    async with serving(CANDIDATE_POD, release) as (server, _):
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
async def ranking_target(release: Path) -> AsyncIterator[str]:
    async with serving(RANKING_POD, release) as (server, _):
        yield f"127.0.0.1:{server.port}"


@asynccontextmanager
async def gateway(
    release: Path, features: Path, candidate: str, ranking: str, **changes: Any
) -> AsyncIterator[GatewayStub]:
    """A gateway that serves `release`, and a stub for it."""
    settings = gateway_settings(features, candidate, ranking, **changes)
    async with serving(gateway_pod(settings), release) as (_, channel):
        yield RecommendationServiceStub(channel)


def names(slate: pb.RecommendResponse | pb.SimilarVideosResponse) -> list[str]:
    """The ids of its videos."""
    return [item.video_id for item in slate.items]


async def slate_declaring(
    stub: GatewayStub, request: pb.RecommendRequest, degradations: list[Any]
) -> pb.RecommendResponse:
    """The first slate with exactly these degradations."""
    async with asyncio.timeout(60):
        while True:
            slate: pb.RecommendResponse = await stub.Recommend(request)
            if list(slate.degradations) == degradations:
                return slate
            await asyncio.sleep(0.02)


def gateway_settings(
    features: Path, candidate: str, ranking: str, **changes: Any
) -> GatewaySettings:
    """Settings of a gateway on a free port, before these pods."""
    return GatewaySettings(
        port=0,
        s3=unreachable_s3(),
        features=features,
        candidate_target=candidate,
        ranking_target=ranking,
        # Far more than is needed: these tests are not about time unless they set it.
        **{
            "default_deadline": 60,
            "features_timeout": 20,
            "retrieval_timeout": 20,
            "ranking_timeout": 20,
            **changes,
        },
    )


@dataclass(frozen=True)
class Chain:
    """What a gateway has behind it."""

    release: Path
    features: Path
    candidate: str
    """host:port of the candidate pod."""
    ranking: str

    def gateway(
        self, candidate: str = "", ranking: str = "", away: str = "", **changes: Any
    ) -> AbstractAsyncContextManager[GatewayStub]:
        """A gateway before these pods, or others, a kind of which may be away, and a stub."""
        targets = {"candidate": candidate or self.candidate, "ranking": ranking or self.ranking}
        if away:
            targets[away] = NOWHERE
        return gateway(self.release, self.features, **targets, **changes)


@pytest.fixture
def chain(release: Path, features: Path, candidate_target: str, ranking_target: str) -> Chain:
    return Chain(release, features, candidate_target, ranking_target)


@pytest.fixture
async def whole(chain: Chain) -> AsyncIterator[GatewayStub]:
    """A gateway whose every stage works."""
    async with chain.gateway() as stub:
        yield stub
