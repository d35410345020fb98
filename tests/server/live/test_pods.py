"""Whole pods with a real log and a real S3: changes of the catalogue hold through everything."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest

from tests.builders.catalogue import change, key_of, removed
from tests.builders.loading import serves
from tests.builders.nats import RunningNats, settings_of
from tests.builders.pods import RunningPod, running_pod
from tests.builders.releases import build_release, described_again
from tests.builders.waiting import until
from vireo.server.candidate.service import CandidateSettings, candidate_pod
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, REMOVED, Stream
from vireo.server.features.keys import video_key
from vireo.server.live.live import Live
from vireo.server.pod.pod import Pod, PodSettings
from vireo.server.ranking.service import ranking_pod
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.releases import layout
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.signals import NEW
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest, RetrieveCandidatesResponse
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2 import RankCandidatesRequest
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.viewer_pb2 import ScoreColumn, ViewerFeatures

_numbers = itertools.count(1)


class Site:
    """A store, a log, and the pods of one channel."""

    def __init__(
        self, store: ReleaseStore, log: JetStreamLog, folder: Path, nats: RunningNats
    ) -> None:
        self.store, self.log, self.folder, self.nats = store, log, folder, nats
        self.channel = f"live-{next(_numbers)}"
        self.serves = True
        """Whether pods are expected to serve."""

    def publish(self, letter: str, videos: int = 40, takedowns: Takedowns | None = None) -> str:
        """Publish a release and point the channel to it; return its id."""
        release_id = f"{self.channel}-{letter}"
        folder = build_release(self.folder / release_id, release_id=release_id, videos=videos)
        if takedowns is not None:
            takedowns.write(folder / layout.TAKEDOWNS)
            described_again(folder)
        self.store.publish(folder)
        self.point(release_id)
        return release_id

    @property
    def copy(self) -> Path:
        """The local copy of the takedowns."""
        return self.folder / "cache" / layout.TAKEDOWNS

    def point(self, release_id: str) -> None:
        """Point the channel to a release."""
        self.store.change_channel(
            self.channel, Change(release_id), self.store.read_channel(self.channel)
        )

    async def upsert(self, video_id: str) -> None:
        """Add a video."""
        await self.log.append(CATALOG, key_of(video_id), change(video_id, tags=["cat"]))

    async def remove(self, video_id: str) -> None:
        """Remove a video."""
        for stream in (REMOVED, CATALOG):
            await self.log.append(stream, key_of(video_id), change(video_id, is_removed=True))

    async def restore(self, video_id: str) -> None:
        """Add a video again that was removed."""
        await self.log.append(REMOVED, key_of(video_id), change(video_id))
        await self.upsert(video_id)

    @asynccontextmanager
    async def candidates(
        self, built: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[RunningPod]:
        """A candidate pod that serves a release; `built` is called with each that was built."""
        pod = candidate_pod(CandidateSettings(**self._settings))

        def build(folder: Path) -> Any:
            content = pod.build(folder)
            built(folder.name)
            return content

        async with self._pod(replace(pod, build=build)) as running:
            yield running

    @asynccontextmanager
    async def ranking(self) -> AsyncIterator[RunningPod]:
        """A ranking pod that serves a release."""
        async with self._pod(ranking_pod(PodSettings(**self._settings))) as pod:
            yield pod

    @property
    def _settings(self) -> dict[str, Any]:
        """How a pod reaches the store and the log."""
        return {
            "port": 0,
            "s3": self.store.settings,
            "event_log": settings_of(self.nats),
            "cache": self.folder / "cache",
        }

    @asynccontextmanager
    async def _pod(self, pod: Pod[Any]) -> AsyncIterator[RunningPod]:
        cache = self.folder / "cache"
        async with running_pod(pod, self.store, cache, self.channel) as running:
            if self.serves:
                await until(lambda: running.loader.serving is not None)
            yield running
        assert pod.event_log is not None
        await pod.event_log.close()


@pytest.fixture
def site(s3: S3Settings, log: JetStreamLog, tmp_path: Path, nats: RunningNats) -> Site:
    return Site(ReleaseStore(s3), log, tmp_path, nats)


async def retrieved(pod: RunningPod) -> RetrieveCandidatesResponse:
    request = RetrieveCandidatesRequest(viewer=ViewerFeatures(asked_at=1), count=200, page_size=200)
    return await CandidateServiceStub(pod.channel).RetrieveCandidates(request, timeout=30)


async def ids(pod: RunningPod) -> set[str]:
    return set((await retrieved(pod)).ids)


async def shows(pod: RunningPod, *shown: str, gone: str = "") -> None:
    """Return once some videos are candidates, and another isn't."""
    async with asyncio.timeout(60):
        while not {*shown} <= (found := await ids(pod)) or gone in found:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_new_video_is_retrieved_and_ranked_and_a_removed_one_is_gone(site: Site) -> None:
    site.publish("a")
    async with site.candidates() as candidates, site.ranking() as ranking:
        await site.upsert("fresh-1")
        await site.remove("video-3")
        await shows(candidates, "fresh-1", gone="video-3")
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
        async with asyncio.timeout(60):
            while True:
                ranked = await RankingServiceStub(ranking.channel).RankCandidates(request)
                if "fresh-1" in ranked.ids and not ranked.unknown_candidates:
                    break
                await asyncio.sleep(0.02)


async def test_removals_and_new_videos_outlast_swaps_rollbacks_and_restarts(site: Site) -> None:
    first = site.publish("a")
    async with site.candidates() as pod:
        await site.upsert("fresh-2")
        await site.remove("video-5")
        await shows(pod, "fresh-2", gone="video-5")
        second = site.publish("b", videos=41)  # which lists it too
        for release_id in (second, first):
            site.point(release_id)
            await until(partial(serves, pod.loader, release_id))
            found = await ids(pod)
            assert "fresh-2" in found
            assert "video-5" not in found
    async with site.candidates() as pod:
        assert "video-5" not in await ids(pod)
        await site.upsert("video-5")
        await site.upsert("fresh-2b")
        await shows(pod, "fresh-2", "fresh-2b")
        assert "video-5" not in await ids(pod), "an upsert undoes no removal"
        await site.restore("video-5")
        await shows(pod, "video-5")


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
        await shows(pod, gone="video-9")
        go_on.set()
        await until(lambda: serves(pod.loader, second))
        assert not {"video-9", "video-40"} & await ids(pod)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that count the log as away after half a second of silence."""
    monkeypatch.setattr(Live, "wait", partialmethod(Live.wait, silence=0.5))


@pytest.fixture
def away(site: Site) -> Iterator[Callable[[], None]]:
    """Kills the log, which is back after the test."""
    yield site.nats.kill
    if site.nats.process.poll() is not None:
        site.nats.start()


async def test_while_the_log_is_away_pods_start_with_the_last_copy_of_the_takedowns(
    site: Site, impatient: None, away: Callable[[], None]
) -> None:
    site.publish("a")
    await site.remove("video-7")
    async with site.candidates():
        await until(site.copy.exists)
    await site.remove("video-8")
    away()
    async with site.candidates() as pod:
        assert "video-7" not in await ids(pod)
        assert "video-8" in await ids(pod), "it was removed after the copy was made"
        as_of = (await pod.state()).takedowns_as_of.seconds
        assert 0 < as_of <= time.time()
        site.nats.start()
        await shows(pod, gone="video-8")
        await until(lambda: Takedowns.read(site.copy).as_of > as_of)


async def test_a_pod_without_log_and_without_a_copy_of_the_takedowns_serves_nothing(
    site: Site, impatient: None, away: Callable[[], None]
) -> None:
    site.publish("a")
    await site.remove("video-10")
    away()
    site.serves = False
    async with site.candidates() as pod:
        await until(lambda: "takedowns can't be read" in pod.loader.failures.reason)
        assert pod.loader.serving is None
        site.nats.start()
        await until(lambda: pod.loader.serving is not None)
        assert "video-10" not in await ids(pod)


async def test_the_takedowns_of_a_release_outlast_the_log(
    site: Site, impatient: None, away: Callable[[], None]
) -> None:
    taken = Takedowns()
    taken.take([removed(1, "video-11"), removed(2, "video-12"), removed(3, "video-13")])
    taken.as_of = 1_700_000_000.0
    site.publish("a", takedowns=taken)
    await site.log.append(REMOVED, key_of("video-13"), change("video-13"))  # restored since
    async with site.candidates() as pod:
        assert {"video-11", "video-12", "video-13"} & await ids(pod) == {"video-13"}
    site.copy.unlink(missing_ok=True)
    away()
    async with site.candidates() as pod:
        assert not {"video-11", "video-12", "video-13"} & await ids(pod)
        assert (await pod.state()).takedowns_as_of.seconds == 1_700_000_000


async def test_all_takedowns_are_known_before_a_pod_serves_however_long_the_catalogue_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes of the catalogue come last, and none comes within the time that pods wait."""
    site.publish("a")
    await site.remove("video-14")
    read = JetStreamLog.read

    def late(log: JetStreamLog, stream: Stream, *arguments: Any, **more: Any) -> Any:
        return _never() if stream is CATALOG else read(log, stream, *arguments, **more)

    monkeypatch.setattr(JetStreamLog, "read", late)
    monkeypatch.setattr(Live, "wait", partialmethod(Live.wait, silence=2.0))
    async with site.candidates() as pod:
        assert "video-14" not in await ids(pod)


async def _never() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield ()
