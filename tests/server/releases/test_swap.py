"""What is in memory while a channel goes from release to release."""

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.loading import running, serves
from tests.builders.releases import build_release
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.pod.release_service import served
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channels import Change
from vireo.server.releases.layout import RANKER
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.progress import Progress, Stage
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]
FOREVER = 3600.0


def loader_of(
    store: ReleaseStore, cache: Path, channel: str, pod: Pod[Any] = RANKING_POD, **changes: Any
) -> ReleaseLoader[Any]:
    settings: dict[str, Any] = {
        "channel": channel,
        "pod": pod.kind,
        "files": pod.files,
        "build": pod.build,
        "replay": pod.replay,
        "poll_seconds": 0.02,
        "keep_previous_seconds": FOREVER,
        **changes,
    }
    return ReleaseLoader(store, ReleaseCache(cache), **settings)


def point(store: ReleaseStore, channel: str, release_id: str) -> None:
    store.change_channel(channel, Change(release_id), store.read_channel(channel))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads share a priority")
async def test_only_a_pod_that_serves_lets_answers_go_before_its_loading(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    niceness = []

    def build(folder: Path) -> Any:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return RANKING_POD.build(folder)

    first, second = f"{name}-a", f"{name}-b"
    for each in (first, second):
        publish(each)
    point(store, name, first)
    loader = loader_of(store, tmp_path, name, build=build)
    async with running(loader):
        await until(lambda: serves(loader, first))
        point(store, name, second)
        await until(lambda: serves(loader, second))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness[0] == own
    assert niceness[1] > own


async def test_python_code_of_a_load_gives_way_to_the_event_loop_within_a_millisecond(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    intervals = []

    def build(folder: Path) -> Any:
        intervals.append(sys.getswitchinterval())
        return RANKING_POD.build(folder)

    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)  # Python's default
    try:
        publish(name)
        point(store, name, name)
        async with running(loader := loader_of(store, tmp_path, name, build=build)):
            await until(lambda: serves(loader, name))
    finally:
        sys.setswitchinterval(before)
    assert intervals[0] < 0.001


@pytest.mark.parametrize("pod", [CANDIDATE_POD, RANKING_POD], ids=lambda pod: pod.kind)
async def test_only_two_releases_are_in_memory_then_one_and_calls_finish_on_theirs(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path, pod: Pod[Any]
) -> None:
    built: list[weakref.ref[Any]] = []
    max_alive = 0

    def build(folder: Path) -> Any:
        nonlocal max_alive
        content = pod.build(folder)
        built.append(weakref.ref(content))
        max_alive = max(max_alive, len(alive()))
        return content

    def alive() -> list[Any]:
        return [content for ref in built if (content := ref()) is not None]

    ids = [f"{name}-{letter}" for letter in "abcde"]
    for release_id in ids:
        publish(release_id)
    point(store, name, ids[0])
    loader = loader_of(store, tmp_path / "cache", name, pod, build=build)
    async with running(loader):
        await until(lambda: serves(loader, ids[0]))
        gc.collect()
        gc.freeze()  # as a pod does after its first release
        gc.disable()  # nothing may wait for a collection to be freed
        try:
            for release_id in ids[1:4]:
                point(store, name, release_id)
                await until(lambda wanted=release_id: serves(loader, wanted))  # type: ignore[misc]
            assert [content.release.manifest.release_id for content in alive()] == ids[2:4]
            call = served(loader, ids[2])
            assert call.release_id == ids[2]
            point(store, name, ids[4])
            await until(lambda: serves(loader, ids[4]))
            kept = {content.release.manifest.release_id for content in alive()}
            assert kept == set(ids[2:]), "the call still uses the one that was dropped"
            call.content.release.replay_goldens()
            del call
            await loader.held.drop_previous()
            assert [content.release.manifest.release_id for content in alive()] == [ids[4]]
        finally:
            gc.enable()
            gc.unfreeze()
    assert max_alive <= 3, "two of the loader's, and the one of the call"


async def test_previous_release_goes_after_its_time(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(f"{name}-a")
    publish(f"{name}-b")
    point(store, name, f"{name}-a")
    loader = loader_of(store, tmp_path / "cache", name, keep_previous_seconds=0.05)
    async with running(loader):
        await until(lambda: serves(loader, f"{name}-a"))
        point(store, name, f"{name}-b")
        await until(lambda: serves(loader, f"{name}-b"))
        await until(lambda: loader.held.previous is None)
        assert served(loader, f"{name}-a").release_id == f"{name}-b"


async def test_pinned_calls_get_their_release_while_it_is_held_else_the_one_that_serves(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(f"{name}-a")
    publish(f"{name}-b")
    point(store, name, f"{name}-a")
    loader = loader_of(store, tmp_path / "cache", name)
    async with running(loader):
        await until(lambda: serves(loader, f"{name}-a"))
        assert served(loader, f"{name}-b").release_id == f"{name}-a"
        point(store, name, f"{name}-b")
        await until(lambda: serves(loader, f"{name}-b"))
        assert served(loader).release_id == f"{name}-b"
        assert served(loader, f"{name}-a").release_id == f"{name}-a"
        assert served(loader, "unknown").release_id == f"{name}-b"


async def test_channel_that_goes_back_swaps_at_once_and_loads_nothing(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    built: list[Path] = []

    def build(folder: Path) -> Any:
        built.append(folder)
        return RANKING_POD.build(folder)

    publish(f"{name}-a")
    publish(f"{name}-b")
    point(store, name, f"{name}-a")
    loader = loader_of(store, tmp_path / "cache", name, build=build)
    async with running(loader):
        await until(lambda: serves(loader, f"{name}-a"))
        first = loader.serving
        point(store, name, f"{name}-b")
        await until(lambda: serves(loader, f"{name}-b"))
        point(store, name, f"{name}-a")
        await until(lambda: serves(loader, f"{name}-a"))
        assert first is not None
        assert loader.serving is not None
        assert loader.serving.content is first.content
        assert len(built) == 2


async def test_each_stage_of_a_load_is_shown(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    staged = publish(name)
    seen: list[Progress] = []
    files = Manifest.read(staged).files
    total = sum(files[path].size for path in RANKING_POD.files if path in files)

    def build(folder: Path) -> Any:
        seen.append(loader.progress)
        return RANKING_POD.build(folder)

    loader: ReleaseLoader[Any] = loader_of(
        store,
        tmp_path / "cache",
        name,
        build=build,
        replay=lambda _: seen.append(loader.progress),
    )
    assert loader.progress == Progress(Stage.LOOKING)
    async with running(loader):
        point(store, name, name)
        await until(lambda: serves(loader, name))
        await until(lambda: loader.progress.stage is Stage.SERVING)
    assert seen == [
        Progress(Stage.BUILDING, name, total, total),
        Progress(Stage.REPLAYING, name, total, total),
    ]


async def test_release_whose_turn_has_not_come_waits_and_the_old_one_serves(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    asked: list[str] = []
    turn = asyncio.Event()

    async def ready(release_id: str) -> None:
        asked.append(release_id)
        await turn.wait()

    publish(f"{name}-a")
    publish(f"{name}-b")
    point(store, name, f"{name}-a")
    loader = loader_of(store, tmp_path / "cache", name, ready=ready)
    async with running(loader):
        await until(lambda: serves(loader, f"{name}-a"))
        assert asked == [], "the first release has nothing to wait for"
        point(store, name, f"{name}-b")
        await until(lambda: loader.progress.stage is Stage.WAITING)
        assert serves(loader, f"{name}-a")
        turn.set()
        await until(lambda: serves(loader, f"{name}-b"))
        assert asked == [f"{name}-b"]


async def test_release_that_the_channel_leaves_while_it_waits_is_never_served(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    async def never(_: str) -> None:
        await asyncio.Event().wait()

    publish(f"{name}-a")
    publish(f"{name}-b")
    point(store, name, f"{name}-a")
    loader = loader_of(store, tmp_path / "cache", name, ready=never)
    async with running(loader):
        await until(lambda: serves(loader, f"{name}-a"))
        point(store, name, f"{name}-b")
        await until(lambda: loader.progress.stage is Stage.WAITING)
        point(store, name, f"{name}-a")
        await until(lambda: loader.progress.stage is Stage.SERVING)
        assert serves(loader, f"{name}-a")
        assert loader.held.previous is None
        assert loader.failures.latest is None


async def test_download_of_a_release_that_the_channel_leaves_is_abandoned(
    store: ReleaseStore, name: str, tmp_path: Path
) -> None:
    built: list[str] = []
    passed_on = threading.Event()

    def hold_up() -> None:
        passed_on.wait(60)

    def build(folder: Path) -> Any:
        built.append(folder.name)
        return RANKING_POD.build(folder)

    ids = [f"{name}-{letter}" for letter in "abc"]
    for seed, release_id in enumerate(ids):
        store.publish(build_release(tmp_path / release_id, release_id=release_id, seed=seed))
    point(store, name, ids[0])
    with faulty_s3(store.settings) as proxy:
        loader = loader_of(ReleaseStore(proxy.settings), tmp_path / "cache", name, build=build)
        async with running(loader):
            await until(lambda: serves(loader, ids[0]))
            proxy.only, proxy.before_answer = f"{ids[1]}/{RANKER}".encode(), hold_up
            point(store, name, ids[1])
            await until(lambda: loader.progress.stage is Stage.DOWNLOADING)
            point(store, name, ids[2])
            await until(lambda: loader._progress._stopped)
            passed_on.set()
            await until(lambda: serves(loader, ids[2]))
            assert built == [ids[0], ids[2]]
            # No load has failed; on a busy machine a look at the channel may have been late.
            assert loader.failures.latest is None or loader.failures.latest.stage is Stage.LOOKING
            kept = [part.name for part in (tmp_path / "cache" / "blobs").glob("*.part")]
            # Beside what may have come of its other files by then.
            assert f"{sha256_of(tmp_path / ids[1])}.part" in kept
            point(store, name, ids[1])
            await until(lambda: serves(loader, ids[1]))


def sha256_of(folder: Path) -> str:
    """Digest of a release's ranker."""
    return Manifest.read(folder).files[RANKER].sha256


async def test_warm_cache_serves_while_s3_accepts_and_never_answers(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    point(store, name, name)
    async with running(loader := loader_of(store, tmp_path / "cache", name)):
        await until(lambda: serves(loader, name))
        cache = ReleaseCache(tmp_path / "cache")
        await until(lambda: cache.last(RANKING_POD.kind, name) == name)
    with faulty_s3(store.settings) as proxy:
        proxy.fault = "silent"
        again = loader_of(ReleaseStore(proxy.settings), tmp_path / "cache", name)
        async with running(again):
            # It takes some 3 s where nothing else slows the machine; S3's own limits are 30.
            await until(lambda: serves(again, name), seconds=25)
            assert again.serving is not None
            assert again.serving.origin == "cache"
            assert "ReadTimeoutError" in again.failures.reason


async def test_loader_that_is_stopped_in_mid_download_leaves_no_thread(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    point(store, name, name)
    before = set(threading.enumerate())
    with faulty_s3(store.settings, read_timeout=2.0, retries=0) as proxy:
        proxy.fault, proxy.only = "hangs", b"ranker"
        loader = loader_of(ReleaseStore(proxy.settings), tmp_path / "cache", name)
        async with running(loader):
            await until(lambda: loader.progress.stage is Stage.DOWNLOADING)
        await until(
            lambda: (
                not [
                    thread
                    for thread in set(threading.enumerate()) - before
                    if thread.name.startswith(("release", "ThreadPoolExecutor"))
                ]
            )
        )
