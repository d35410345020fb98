"""Pages of one slate: none repeats a video of another, whatever happens between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.builders.chain import NOWHERE, gateway
from tests.builders.filters import condition, message
from tests.builders.recording import failure_of
from tests.builders.releases import build_release, video_ids
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.ranking.service import RANKING_POD
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

VIDEOS = 700
PAGES, SIZE = 50, 12


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("large"), videos=VIDEOS)


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("next")
    return build_release(folder, release_id="tiny-2", videos=VIDEOS, seed=1)


@asynccontextmanager
async def chain(
    release: Path, features: Path, *, candidate: bool = True
) -> AsyncIterator[RecommendationServiceAsyncStub]:
    """A gateway before pods of its own that serve a release."""
    async with AsyncExitStack() as stack:
        targets = [NOWHERE, NOWHERE]
        for place, pod in enumerate((CANDIDATE_POD, RANKING_POD)):
            if candidate:
                server, _ = await stack.enter_async_context(serving(pod, release))
                targets[place] = f"127.0.0.1:{server.port}"
        yield await stack.enter_async_context(gateway(release, features, *targets))


async def follow(
    stubs: list[RecommendationServiceAsyncStub], pages: int, **fields: object
) -> list[list[str]]:
    """Ask the gateways in turns for the pages of one slate."""
    request = pb.RecommendRequest(viewer_id=VIEWER, page_size=SIZE, **fields)  # type: ignore[arg-type]
    found = []
    for number in range(pages):
        slate = await stubs[number % len(stubs)].Recommend(request)
        found.append([item.video_id for item in slate.items])
        request.page_token = slate.next_page_token
        if not slate.next_page_token:
            break
    return found


async def test_fifty_pages_repeat_nothing_while_releases_swap_and_pods_are_away(
    large: Path, next_release: Path, features: Path
) -> None:
    async with (
        chain(large, features) as first,
        chain(next_release, features) as second,
        chain(next_release, features, candidate=False) as without_pods,
    ):
        found = await follow([first, second, without_pods, second], PAGES)
    assert [len(page) for page in found] == [SIZE] * PAGES
    names = [name for page in found for name in page]
    assert len(set(names)) == len(names)
    assert not set(names) & set(WATCHED)


async def test_what_the_caller_says_was_watched_is_on_no_page(large: Path, features: Path) -> None:
    async with chain(large, features) as stub:
        usual = [name for page in await follow([stub], 3) for name in page]
        watched = usual[::SIZE]
        profile = pb.RequestProfile(history=[pb.WatchedVideo(video_id=each) for each in watched])
        found = await follow([stub], 3, profile=profile)
    assert len(watched) == 3
    assert not {name for page in found for name in page} & {*watched}


async def test_pages_end_with_the_videos(release: Path, features: Path) -> None:
    async with chain(release, features) as stub:
        found = await follow([stub], PAGES)
    assert [len(page) for page in found] == [SIZE, SIZE, SIZE, 1]
    assert {name for page in found for name in page} == set(video_ids(40)) - set(WATCHED)


async def test_pages_keep_the_filter(release: Path, features: Path) -> None:
    german = message(condition("language", any_of=["de"]))
    for candidate in (True, False):
        async with chain(release, features, candidate=candidate) as stub:
            found = await follow([stub], PAGES, filter=german)
        names = {name for page in found for name in page}
        assert len(names) == sum(map(len, found))
        rows = [row for row in range(3, 40) if row % 7 != 6 and row % 2 == 0]
        assert names == {f"video-{row}" for row in rows}


async def test_a_token_that_continues_nothing_is_refused_by_the_name_of_its_field(
    release: Path, features: Path
) -> None:
    async with chain(release, features, candidate=False) as stub:
        request = pb.RecommendRequest(viewer_id=VIEWER)
        request.page_token = (await stub.Recommend(request)).next_page_token
        assert (await stub.Recommend(request)).items
        request.viewer_id = "another"
        failure = await failure_of(stub.Recommend(request))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("page_token",))
    assert failure.message.startswith("page_token: is of another request")
