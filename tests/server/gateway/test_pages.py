"""Pages of one slate: none repeats a video of another, whatever happens between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.builders.chain import NOWHERE, gateway
from tests.builders.releases import build_release, video_ids
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.candidate.service import CANDIDATE_POD
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
