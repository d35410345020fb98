"""Whole pods with a real log and a real S3: changes of the catalogue hold through everything."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest, RetrieveCandidatesResponse
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2 import RankCandidatesRequest
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.viewer_pb2 import ScoreColumn, ViewerFeatures

from bench.nats import RunningNats, settings_of
from server.candidate.service import CandidateSettings, candidate_pod
from server.event_log.jetstream import JetStreamLog
from server.event_log.log import CATALOG, EventLog
from server.features.keys import video_key
from server.pod.pod import Pod, PodSettings
from server.ranking.service import ranking_pod
from server.releases import layout
from server.releases.s3 import S3Settings
from server.releases.store import ReleaseStore
from server.signals import NEW
from tests.builders.catalogue import change, key_of
from tests.builders.loading import serves
from tests.builders.pods import RunningPod, running_pod
from tests.builders.releases import build_release, write_manifest
from tests.builders.waiting import until

_numbers = itertools.count(1)


class Site:
    """A store, a log, and the pods of one channel."""

    def __init__(self, store: ReleaseStore, log: EventLog, folder: Path, nats: RunningNats) -> None:
        self.store, self.log, self.folder, self.nats = store, log, folder, nats
        self.channel = f"live-{next(_numbers)}"

    def publish(self, letter: str, videos: int = 40) -> str:
        """Publish a release and point the channel to it; return its id."""
        release_id = f"{self.channel}-{letter}"
        self.store.publish(
            build_release(self.folder / release_id, release_id=release_id, videos=videos)
        )
        self.point(release_id)
        return release_id

    def publish_of_an_earlier_build(self) -> None:
        """Publish a release that can't place videos, and point the channel to it."""
        release_id = f"{self.channel}-earlier"
        folder = build_release(self.folder / release_id, release_id=release_id)
        for path in layout.OPTIONAL:
            (folder / path).unlink(missing_ok=True)
        write_manifest(folder, release_id=release_id)
        self.store.publish(folder)
        self.point(release_id)

    def point(self, release_id: str) -> None:
        """Point the channel to a release."""
        self.store.set_channel(self.channel, release_id, self.store.read_channel(self.channel))

    async def upsert(self, video_id: str) -> None:
        """Add a video."""
        await self.log.append(CATALOG, key_of(video_id), change(video_id, tags=["cat"]))

    async def remove(self, video_id: str) -> None:
        """Remove a video."""
        await self.log.append(CATALOG, key_of(video_id), change(video_id, is_removed=True))

    @asynccontextmanager
    async def candidates(
        self, built: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[RunningPod]:
        """A candidate pod that serves a release; `built` is called with each that was built."""
        settings = CandidateSettings(
            port=0, s3=self.store.settings, event_log=settings_of(self.nats)
        )
        pod = candidate_pod(settings)

        def build(folder: Path) -> Any:
            content = pod.build(folder)
            built(folder.name)
            return content

        async with self._pod(replace(pod, build=build)) as running:
            yield running

    @asynccontextmanager
    async def ranking(self) -> AsyncIterator[RunningPod]:
        """A ranking pod that serves a release."""
        async with self._pod(
            ranking_pod(
                PodSettings(port=0, s3=self.store.settings, event_log=settings_of(self.nats))
            )
        ) as pod:
            yield pod

    @asynccontextmanager
    async def _pod(self, pod: Pod[Any]) -> AsyncIterator[RunningPod]:
        cache = self.folder / "cache"
        async with running_pod(pod, self.store, cache, self.channel) as running:
            await until(lambda: running.loader.serving is not None)
            yield running
        assert pod.event_log is not None
        await pod.event_log.close()


@pytest.fixture
async def site(s3: S3Settings, nats: RunningNats, tmp_path: Path) -> AsyncIterator[Site]:
    log = JetStreamLog(settings_of(nats))
    yield Site(ReleaseStore(s3), log, tmp_path, nats)
    await log.close()


async def retrieved(pod: RunningPod) -> RetrieveCandidatesResponse:
    request = RetrieveCandidatesRequest(viewer=ViewerFeatures(asked_at=1), count=200, page_size=200)
    return await CandidateServiceStub(pod.channel).RetrieveCandidates(request, timeout=30)


async def ids(pod: RunningPod) -> set[str]:
    return set((await retrieved(pod)).ids)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 (it asks a pod)
            await asyncio.sleep(0.02)


async def test_a_new_video_is_retrieved_and_ranked_and_a_removed_one_is_gone(site: Site) -> None:
    site.publish("a")
    async with site.candidates() as candidates, site.ranking() as ranking:
        await site.upsert("fresh-1")
        await site.remove("video-3")

        async def followed() -> bool:
            found = await ids(candidates)
            return "fresh-1" in found and "video-3" not in found

        await eventually(followed)
        found = await retrieved(candidates)
        place = list(found.keys).index(video_key("fresh-1"))
        assert found.source_masks[place] & NEW.bit

        request = RankCandidatesRequest(
            viewer=ViewerFeatures(asked_at=1),
            keys=found.keys,
            source_masks=found.source_masks,
            scores=[ScoreColumn(name=each.name, values=each.values) for each in found.scores],
            page_size=200,
            titles=True,
        )

        async def ranked() -> bool:
            answer = await RankingServiceStub(ranking.channel).RankCandidates(request, timeout=30)
            return "fresh-1" in answer.ids and not answer.unknown_candidates

        await eventually(ranked)


async def test_removals_and_new_videos_outlast_swaps_rollbacks_and_restarts(site: Site) -> None:
    first = site.publish("a")
    async with site.candidates() as pod:
        await site.upsert("fresh-2")
        await site.remove("video-5")

        async def holds() -> bool:
            found = await ids(pod)
            return "fresh-2" in found and "video-5" not in found

        await eventually(holds)
        second = site.publish("b", videos=41)  # which lists it too
        await until(lambda: serves(pod.loader, second))
        assert await holds()
        site.point(first)
        await until(lambda: serves(pod.loader, first))
        assert await holds()
    async with site.candidates() as pod:
        assert await holds()
        await site.upsert("video-5")

        async def back() -> bool:
            return "video-5" in await ids(pod)

        await eventually(back)


async def test_a_removal_in_the_middle_of_a_swap_holds_from_its_first_call_on(site: Site) -> None:
    first = site.publish("a")
    built, go_on = threading.Event(), threading.Event()

    def hold_up(release_id: str) -> None:
        if release_id != first:
            built.set()
            go_on.wait(30)

    async with site.candidates(hold_up) as pod:
        second = site.publish("b", videos=41)
        await asyncio.to_thread(built.wait, 30)
        await site.remove("video-40")
        await site.remove("video-9")

        async def gone() -> bool:
            return "video-9" not in await ids(pod)

        await eventually(gone)
        go_on.set()
        await until(lambda: serves(pod.loader, second))
        assert not {"video-9", "video-40"} & await ids(pod)


async def test_a_release_of_an_earlier_build_holds_removals_and_places_nothing(site: Site) -> None:
    site.publish_of_an_earlier_build()
    await site.upsert("fresh-3")
    await site.remove("video-6")
    async with site.candidates() as pod:
        found = await ids(pod)
        assert "video-6" not in found
        assert "fresh-3" not in found
        assert pod.loader.serving is not None
        assert pod.loader.serving.content.release.live.table.unplaced
        site.publish("later")
        await until(lambda: serves(pod.loader, f"{site.channel}-later"))
        found = await ids(pod)
        assert "fresh-3" in found
        assert "video-6" not in found


async def test_while_the_log_is_away_pods_start_and_know_removals_once_it_is_back(
    site: Site,
) -> None:
    site.publish("a")
    await site.remove("video-7")
    site.nats.kill()
    try:
        async with site.candidates() as pod:
            assert "video-7" in await ids(pod)
            site.nats.start()

            async def gone() -> bool:
                return "video-7" not in await ids(pod)

            await eventually(gone)
    finally:
        if site.nats.process.poll() is not None:
            site.nats.start()
