"""What is in memory, and who goes first, while a channel goes from release to release."""

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.loading import Followed, running, serves
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.pod.release_service import served
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases.cache import LoadProgress, LoadStoppedError, ReleaseCache, Stage
from vireo.server.releases.layout import RANKER
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.manifest import Manifest

pytestmark = pytest.mark.integration
FOREVER = 3600.0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads share a priority")
async def test_loading_gives_way_to_calls_of_a_pod_that_serves(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vireo.server.releases.loader._NICE", 1
    )  # whatever the priority of this process
    niceness, intervals = [], []

    def build(folder: Path) -> Any:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        intervals.append(sys.getswitchinterval())
        return RANKING_POD.build(folder)

    before, own = sys.getswitchinterval(), os.getpriority(os.PRIO_PROCESS, 0)
    sys.setswitchinterval(0.005)  # Python's default
    first, second = followed.publish("a", "b")
    followed.point(first)
    try:
        async with running(loader := followed.loader(build=build)):
            await until(lambda: serves(loader, first))
            await followed.serve(loader, second)
    finally:
        sys.setswitchinterval(before)
    assert niceness == [own, min(own + 1, 19)]
    assert max(intervals) < 0.001, "the event loop gets its turn within a millisecond"


@pytest.mark.parametrize("pod", [CANDIDATE_POD, RANKING_POD], ids=lambda pod: pod.kind)
async def test_only_two_releases_are_in_memory_then_one_and_calls_finish_on_theirs(
    followed: Followed, pod: Pod[Any]
) -> None:
    built: list[weakref.ref[Any]] = []
    max_alive = 0

    def build(folder: Path) -> Any:
        nonlocal max_alive
        content = pod.build(folder)
        built.append(weakref.ref(content))
        max_alive = max(max_alive, len(alive()))
        return content

    def alive() -> dict[str, Any]:
        found = [content for ref in built if (content := ref()) is not None]
        return {content.release.manifest.release_id: content for content in found}

    ids = followed.publish(*"abcde")
    loader = followed.loader(pod=pod, build=build, keep_previous_seconds=FOREVER)
    async with running(loader):
        await followed.serve(loader, ids[0])
        gc.collect()
        gc.freeze()  # as a pod does after its first release
        gc.disable()  # nothing may wait for a collection to be freed
        try:
            for release_id in ids[1:4]:
                await followed.serve(loader, release_id)
            assert list(alive()) == ids[2:4]
            call = served(loader, ids[2])
            assert call.release_id == ids[2]
            await followed.serve(loader, ids[4])
            assert set(alive()) == set(ids[2:]), "the call still uses the one that was dropped"
            call.content.release.replay_goldens()
            del call
            await loader.drop_previous()
            assert list(alive()) == [ids[4]]
        finally:
            gc.enable()
            gc.unfreeze()
    assert max_alive <= 3, "two of the loader's, and the one of the call"


async def test_calls_get_the_release_they_are_pinned_to_while_it_is_held_and_going_back_is_free(
    followed: Followed,
) -> None:
    built: list[Path] = []

    def build(folder: Path) -> Any:
        built.append(folder)
        return RANKING_POD.build(folder)

    first, second = followed.publish("a", "b")
    loader = followed.loader(build=build, keep_previous_seconds=FOREVER)
    async with running(loader):
        await followed.serve(loader, first)
        assert served(loader, second).release_id == first
        content = served(loader).content
        await followed.serve(loader, second)
        for pinned, found in (("", second), (first, first), ("unknown", second)):
            assert served(loader, pinned).release_id == found
        await followed.serve(loader, first)
        assert served(loader).content is content
        assert len(built) == 2
    loader = followed.loader(keep_previous_seconds=0.05)
    async with running(loader):
        await until(lambda: serves(loader, first))
        await followed.serve(loader, second)
        await until(lambda: loader.previous is None)
        assert served(loader, first).release_id == second


async def test_each_stage_of_a_load_is_shown(followed: Followed) -> None:
    [release_id] = followed.publish("a")
    files = Manifest.read(followed.folder / "staged" / release_id).files
    total = sum(files[path].size for path in RANKING_POD.files if path in files)
    seen: list[LoadProgress] = []

    def build(folder: Path) -> Any:
        seen.append(replace(loader.progress))
        return RANKING_POD.build(folder)

    def replay(_: Any) -> None:
        seen.append(replace(loader.progress))

    loader: ReleaseLoader[Any] = followed.loader(build=build, replay=replay)
    assert loader.progress == LoadProgress(Stage.LOOKING)
    async with running(loader):
        await followed.serve(loader, release_id)
        await until(lambda: loader.progress.stage is Stage.SERVING)
    assert [each.stage for each in seen] == [Stage.BUILDING, Stage.REPLAYING]
    for each in seen:
        assert (each.release_id, each.bytes_done, each.bytes_total) == (release_id, total, total)


async def test_a_release_waits_for_its_turn_and_is_never_served_if_the_channel_leaves_it(
    followed: Followed,
) -> None:
    asked: list[str] = []
    turn = asyncio.Event()

    async def ready(release_id: str) -> None:
        asked.append(release_id)
        await turn.wait()

    first, second = followed.publish("a", "b")
    followed.point(first)
    loader = followed.loader(ready=ready)
    async with running(loader):
        await until(lambda: serves(loader, first))
        assert asked == [], "the first release has nothing to wait for"
        followed.point(second)
        await until(lambda: loader.progress.stage is Stage.WAITING)
        followed.point(first)
        await until(lambda: loader.progress.stage is Stage.SERVING)
        assert serves(loader, first)
        assert loader.previous is None
        assert loader.failures.latest is None
        followed.point(second)
        await until(lambda: loader.progress.stage is Stage.WAITING)
        assert serves(loader, first)
        turn.set()
        await until(lambda: serves(loader, second))
        assert asked == [second, second]


async def test_download_of_a_release_that_the_channel_leaves_is_abandoned(
    followed: Followed,
) -> None:
    built: list[str] = []
    asked, passed_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        passed_on.wait(60)

    def build(folder: Path) -> Any:
        built.append(folder.name)
        return RANKING_POD.build(folder)

    ids = [followed.publish(letter, seed=seed)[0] for seed, letter in enumerate("abc")]
    followed.point(ids[0])
    with faulty_s3(followed.store.settings) as proxy:
        loader = followed.loader(proxy.settings, build=build)
        async with running(loader):
            await until(lambda: serves(loader, ids[0]))
            proxy.only = f"{ids[1]}/{RANKER}".encode()
            proxy.before_answer = hold
            followed.point(ids[1])
            await until(asked.is_set)
            load = loader.progress
            assert load.stage is Stage.DOWNLOADING
            followed.point(ids[2])
            await until(lambda: load.stopped)
            passed_on.set()
            await until(lambda: serves(loader, ids[2]))
            assert built == [ids[0], ids[2]]
            # No load has failed; on a busy machine a look at the channel may have been late.
            assert loader.failures.latest is None or loader.failures.latest.stage is Stage.LOOKING
            part = followed.cache.root / "releases" / ids[1] / f"{RANKER}.part"
            assert part.exists(), "what has come of it is kept"
            await followed.serve(loader, ids[1])


async def test_a_loader_that_is_stopped_in_mid_download_leaves_no_thread(
    followed: Followed,
) -> None:
    [release_id] = followed.publish("a")
    followed.point(release_id)
    before = set(threading.enumerate())

    def left() -> list[str]:
        names = [thread.name for thread in set(threading.enumerate()) - before]
        return [name for name in names if name.startswith(("release", "ThreadPoolExecutor"))]

    with faulty_s3(followed.store.settings, read_timeout=2.0, retries=0) as proxy:
        proxy.fault, proxy.only = "hangs", b"ranker"
        loader = followed.loader(proxy.settings)
        async with running(loader):
            await until(lambda: loader.progress.stage is Stage.DOWNLOADING)
        await until(lambda: not left())


def test_pods_that_share_a_cache_build_one_after_another_even_if_one_fails(tmp_path: Path) -> None:
    cache, building, most = ReleaseCache(tmp_path), list[str](), list[int]()

    def build(name: str) -> None:
        with suppress(ZeroDivisionError), cache.build_turn(LoadProgress()):
            building.append(name)
            most.append(len(building))
            time.sleep(0.05)
            building.remove(name)
            assert name != "a" or 1 / 0

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(build, "abcd"))
    assert most == [1] * 4


def test_a_pod_builds_without_a_turn_if_another_hangs_and_stops_waiting_when_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ReleaseCache(tmp_path)
    with cache.build_turn(LoadProgress()):
        with pytest.raises(LoadStoppedError), cache.build_turn(LoadProgress(stopped=True)):
            pass
        monkeypatch.setattr("vireo.server.releases.cache._MAX_TURN_SECONDS", 0.2)
        with cache.build_turn(LoadProgress()):
            pass
