"""Pages of one slate: none repeats a video of another, whatever happens between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.builders.chain import AWAY, NOWHERE, Chain, gateway
from tests.builders.releases import build_release, video_ids
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.features.keys import video_key
from vireo.server.gateway.page_token import MAX_SHOWN, next_page_token
from vireo.server.ranking.service import RANKING_POD
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

PAGES, SIZE = 50, 12


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two releases that have videos for all pages."""
    folders = tmp_path_factory.mktemp("large"), tmp_path_factory.mktemp("next")
    build_release(folders[0], videos=700)
    build_release(folders[1], release_id="tiny-2", videos=700, seed=1)
    return folders


@asynccontextmanager
async def pods(release: Path) -> AsyncIterator[list[str]]:
    """Addresses of a candidate and a ranking pod that serve a release."""
    async with (
        serving(CANDIDATE_POD, release) as (candidate, _),
        serving(RANKING_POD, release) as (ranking, _),
    ):
        yield [f"127.0.0.1:{each.port}" for each in (candidate, ranking)]


async def follow(*stubs: RecommendationServiceAsyncStub) -> list[list[str]]:
    """Ask the gateways in turns for the pages of one slate."""
    request = pb.RecommendRequest(viewer_id=VIEWER, page_size=SIZE)
    found: list[list[str]] = []
    for number in range(PAGES):
        slate = await stubs[number % len(stubs)].Recommend(request)
        found.append([item.video_id for item in slate.items])
        request.page_token = slate.next_page_token
        if not slate.next_page_token:
            break
    return found


async def test_fifty_pages_repeat_nothing_while_releases_swap_and_pods_are_away(
    large: tuple[Path, Path], features: Path
) -> None:
    before, after = large
    async with (
        pods(before) as old,
        pods(after) as new,
        gateway(before, features, *old) as first,
        gateway(after, features, *new) as second,
        gateway(after, features, NOWHERE, NOWHERE) as without_pods,
    ):
        found = await follow(first, second, without_pods, second)
    assert [len(page) for page in found] == [SIZE] * PAGES
    names = [name for page in found for name in page]
    assert len(set(names)) == len(names)
    assert not set(names) & set(WATCHED)


async def test_pages_end_with_the_videos(whole: RecommendationServiceAsyncStub) -> None:
    found = await follow(whole)
    assert [len(page) for page in found] == [SIZE, SIZE, SIZE, 1]
    assert {name for page in found for name in page} == set(video_ids(40)) - set(WATCHED)


@pytest.mark.parametrize(("away", "declared"), AWAY)
async def test_a_token_that_was_made_up_leaves_out_what_it_names(
    away: str, declared: list[int], chain: Chain
) -> None:
    extreme = [-(1 << 63), (1 << 63) - 1, -1, 0]
    known = [video_key(name) for name in video_ids(40)[:20]]
    made_up = (extreme + known) * (MAX_SHOWN // 24)
    asked = pb.RecommendRequest(viewer_id=VIEWER, page_size=40, excluded_video_ids=["x"] * 1_000)
    token = next_page_token(pb.RecommendRequest.FromString(asked.SerializeToString()), made_up, [])
    asked.page_token = token
    async with chain.gateway(away=away) as stub:
        slate = await stub.Recommend(asked)
    assert list(slate.degradations) == declared
    names = {item.video_id for item in slate.items}
    assert names == set(video_ids(40)[20:]) - set(WATCHED)
