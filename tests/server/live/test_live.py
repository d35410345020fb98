"""With a real log: what a pod knows of the catalogue's changes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.catalogue import change, key_of, known_videos
from tests.builders.nats import RunningNats, settings_of
from tests.builders.reading import take
from tests.builders.waiting import until
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, REMOVED, STATE, Entry, Stream
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.keys import video_key
from vireo.server.live import live as live_module
from vireo.server.live.live import Live
from vireo.server.live.settings import LiveSettings
from vireo.server.recommend.catalogue.live_videos import LiveVideos
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.recommend.catalogue.placement import KnownVideos
from vireo.v1.log_pb2 import Trending, TrendingVideos

NO_RELEASE = Path("no release")
"""Folder of a release without takedowns."""


@pytest.fixture(scope="module")
def known(release_folder: Path) -> KnownVideos:
    return known_videos(release_folder)


@asynccontextmanager
async def following(log: JetStreamLog, *, videos: bool = True) -> AsyncIterator[Live]:
    live = Live(log, LiveSettings(), videos=videos)
    task = asyncio.create_task(live.run())
    try:
        yield live
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def completed(live: Live, known: KnownVideos, silence: float = 0.2) -> LiveVideos:
    """The live videos of a release, made when a pod would make them."""
    await asyncio.to_thread(live.wait, NO_RELEASE, silence)
    return await asyncio.to_thread(live.live_videos, known, NO_RELEASE)


async def upsert(log: JetStreamLog, video_id: str, **fields: Any) -> int:
    return await log.append(CATALOG, key_of(video_id), change(video_id, **fields))


async def remove(log: JetStreamLog, video_id: str) -> int:
    await log.append(REMOVED, key_of(video_id), change(video_id, is_removed=True))
    return await log.append(CATALOG, key_of(video_id), change(video_id, is_removed=True))


@pytest.mark.parametrize("was_connected", [True, False])
async def test_without_the_log_a_release_is_served_and_follows_once_it_is_back(
    was_connected: bool, nats: RunningNats, log: JetStreamLog, known: KnownVideos
) -> None:
    await upsert(log, "early", tags=["cat"])
    nats.kill()
    if not was_connected:
        await log.close()
        log = JetStreamLog(settings_of(nats))
    async with following(log) as live:
        live.overlay.takedowns.as_of = 1.0  # as a copy of them says
        try:
            videos = await completed(live, known)
            assert not live.caught_up.is_set()
            assert videos.places == {}
        finally:
            await asyncio.to_thread(nats.start)
        await until(lambda: video_key("early") in videos.places)
    await log.close()


async def test_a_pod_hears_of_changes_after_the_log_lost_its_data(
    nats: RunningNats, log: JetStreamLog, known: KnownVideos
) -> None:
    for number in range(3):
        await upsert(log, "before", title=f"{number}")
    async with following(log) as live:
        videos = await completed(live, known)
        nats.kill()
        nats.forget()
        await asyncio.to_thread(nats.start)
        another = JetStreamLog(settings_of(nats))  # which can append at once
        await remove(another, "video-8")
        await another.close()
        await until(lambda: 8 in videos.removed_rows)


async def test_live_videos_that_nobody_uses_are_freed(
    log: JetStreamLog, known: KnownVideos
) -> None:
    async with following(log) as live:
        videos = await completed(live, known)
        await upsert(log, "a last one", tags=["cat"])
        places = videos.places
        await until(lambda: video_key("a last one") in places)
        freed = weakref.ref(videos)
        del videos
        await until(lambda: gc.collect() >= 0 and freed() is None)  # the last refresh may go on


async def test_a_gateway_remembers_what_changed_and_not_how(log: JetStreamLog) -> None:
    await upsert(log, "kept", tags=["cat"])
    last = await remove(log, "gone")
    async with following(log, videos=False) as live:
        await until(lambda: live.overlay.position >= last)
        await until(lambda: video_key("gone") in live.overlay.takedowns)  # of another stream
        assert live.overlay.changed_after(video_key("kept"), 0)
        kept = live.overlay.get(video_key("kept"))
        assert kept is not None
        assert kept.video == b""


async def test_changes_up_to_a_release_count_only_in_the_log_that_it_was_trained_on(
    nats: RunningNats, log: JetStreamLog, known: KnownVideos
) -> None:
    """A log that was restored from a backup has other changes under the same sequences."""
    async with following(log) as live:
        await upsert(log, "video-3", tags=["new"])
        position = (await take(log, CATALOG))[-1].position
        assert position.fingerprint is not None
        unlike = replace(position, fingerprint=position.fingerprint ^ 1)
        beyond = replace(position, sequence=position.sequence + 1)
        for trained_at, changed in ((position, False), (unlike, True), (beyond, True)):
            videos = await completed(live, replace(known, position=trained_at))
            assert (video_key("video-3") in videos.places) == changed
            assert videos.merged == (0 if changed else position.sequence)
        await upsert(log, "video-3", tags=["newer"])
        assert await asyncio.to_thread(live.merged, position) == position.sequence, "as it was"
        assert await asyncio.to_thread(live.merged, beyond) == 0
        nats.kill()
        try:
            assert await asyncio.to_thread(live.merged, position) == position.sequence
            assert await asyncio.to_thread(live.merged, replace(position, sequence=1_000)) == 0
        finally:
            await asyncio.to_thread(nats.start)


async def test_a_release_waits_for_the_catalogues_changes_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each part comes well within the time that pods wait for the log; all of them don't."""

    async def read(_: JetStreamLog, stream: Stream, **_more: object) -> AsyncIterator[Any]:
        if stream is CATALOG:
            for number in range(1, 10):
                yield [Entry(number, key_of(f"{number}"), change(f"{number}"))]
                await asyncio.sleep(0.15)
        yield []
        await asyncio.Event().wait()

    monkeypatch.setattr(JetStreamLog, "read", read)
    async with following(JetStreamLog(EventLogSettings())) as live:
        await asyncio.to_thread(live.wait, NO_RELEASE, 0.5)
        assert live.overlay.videos == 9


async def test_a_pod_that_cannot_read_the_log_leaves_the_copy_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_COPY_SECONDS", 0.001)
    monkeypatch.setattr(live_module, "_IDLE_COPY_SECONDS", 0.0)
    copy, back, written = tmp_path / "takedowns", asyncio.Event(), list[Path]()

    async def read(_: JetStreamLog, _stream: Stream, **_more: object) -> AsyncIterator[Any]:
        yield []
        await back.wait()
        yield []
        await asyncio.Event().wait()

    monkeypatch.setattr(JetStreamLog, "read", read)
    monkeypatch.setattr(Takedowns, "write", lambda _, path: written.append(path))
    live = Live(JetStreamLog(EventLogSettings()), LiveSettings(), copy)
    following = asyncio.create_task(live.run())
    await until(lambda: written == [copy])
    live.overlay.takedowns.merge_copy(Takedowns())  # of a release
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert written == [copy]
    back.set()
    await until(lambda: written == [copy] * 2)
    following.cancel()


async def test_what_is_trending_follows_the_consumers(log: JetStreamLog) -> None:
    videos = TrendingVideos(keys=[3, 1], weights=[2.0, 1.0])
    told = Trending(lists=[videos], new_keys=[9], new_impressions=[4], at=Timestamp(seconds=1))
    async with following(log) as live:
        await log.append(STATE, "trending.0", told.SerializeToString())
        await until(lambda: live.trends.impressions(9) == 4)
        assert live.trends.lists[""].tolist() == [3, 1]
