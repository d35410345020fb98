"""Builds that are killed, that overlap, and that replace features while they are read."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Literal, NoReturn

import pandas as pd
import pytest
import redis
from pydantic import SecretStr

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.redis import RunningRedis, running_redis
from vireo.server.errors import VireoError
from vireo.server.features.online_store import CONFIGURATION, RedisSettings, open_rows, read_viewer
from vireo.server.features.viewer_store import active_key
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home
from vireo.training.data import folder
from vireo.training.features import build, online_store
from vireo.training.features.build import build_features
from vireo.training.features.definitions import fill_online
from vireo.training.features.online_store import OnlineStoreSettings

pytestmark = pytest.mark.integration

MOMENTS = ("before", "amid", "exchanged", "announced", "swapped", "ended")
"""When a build is killed: before and amid its rows, while the old folder lies in the draft, before
it gets there, after that, and before the old rows are deleted."""


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes that have imported Feast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningRedis]:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as running:
        yield running


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def swap_and_die(draft: Path, target: Path, swap: Callable[[Path, Path], None]) -> None:
    swap(draft, target)
    die()


@contextmanager
def dying_folder(target: Path) -> Iterator[Path]:
    with folder.replaced_folder(target) as draft:
        yield draft
    die()


def vireo_features_build(environment: Mapping[str, str], moment: str = "") -> None:
    """Be `vireo features build --data small`, killed at a moment."""
    fill, calls = fill_online, list[object]()

    def fill_once(*arguments: Any) -> None:
        calls.append(die() if calls else None)
        fill(*arguments)

    at: Mapping[str, tuple[Any, str, Callable[..., Any]]] = {
        "before": (build, "fill_online", die),
        "amid": (build, "fill_online", fill_once),
        "exchanged": (folder, "_swap", partial(swap_and_die, swap=folder._swap)),
        "swapped": (online_store, "replaced_folder", dying_folder),
        "announced": (folder, "_swap", die),
        "ended": (online_store, "_clean", die),
    }
    if moment:
        setattr(*at[moment])
    os.environ.update(environment)
    sys.argv = ["vireo", "features", "build", "--data", "small"]
    runpy.run_module("vireo.ops.cli", run_name="__main__")


def connected(server: RunningRedis) -> Any:
    return redis.Redis(port=server.port, decode_responses=True, encoding_errors="backslashreplace")


def stored_builds(server: RunningRedis) -> set[str]:
    """The projects of which Redis has rows."""
    keys = [key for key in connected(server).keys("*") if not key.startswith("vireo:")]
    found = [re.search(r"vireo_small_[0-9a-f]{8}\w*\Z", key, re.ASCII) for key in keys]
    return {each[0] for each in found if each}


def announced(server: RunningRedis) -> set[str]:
    keys = connected(server).keys(active_key("*"))
    return set(connected(server).mget(keys)) if keys else set()


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_builds_that_are_killed_or_overlap_leave_one_copy(
    kind: str,
    server: RunningRedis,
    processes: ForkServerContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Home(tmp_path / "home")
    write_small_dataset(home, "small", random_interactions())
    environment = {
        "VIREO_HOME": str(home.root),
        "VIREO_ONLINE_STORE": kind,
        "VIREO_REDIS_URL": server.url,
    }
    monkeypatch.setenv("VIREO_REDIS_URL", server.url)
    # In SQLite the rows are a file of the folder.
    for moment in MOMENTS if kind == "redis" else ("exchanged", "swapped"):
        process = processes.Process(target=vireo_features_build, args=(environment, moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        if moment not in ("before", "amid"):
            assert read_viewer(home.features("small"), "w1").watch_count
        else:
            assert len(stored_builds(server)) == (moment == "amid")
    both = [processes.Process(target=vireo_features_build, args=(environment,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert read_viewer(home.features("small"), "w1").watch_count
    assert stored_builds(server) == announced(server)
    assert len(announced(server)) == (kind == "redis")
    left = {each.name for each in home.features("small").parent.iterdir()}
    assert left == {"small", ".small.builds"}


def read_for_ever(repo: Path, url: str, told: Connection) -> None:
    """Be a gateway's reader; tell each change of how much w1 has watched."""
    reader = FeatureReader(repo, 1.0, RedisSettings(url=SecretStr(url)))

    async def read() -> None:
        before = -1
        while True:
            try:
                count = (await reader.read("w1", 1.0)).watch_count
            except TimeoutError:  # slates say so; it was stopped during a read
                continue
            if count != before:
                told.send(count)
            before = count
            await asyncio.sleep(0.005)

    asyncio.run(read())


def test_readers_see_old_rows_or_new_ones_whatever_their_volume_shows(
    server: RunningRedis,
    processes: ForkServerContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIREO_REDIS_URL", server.url)
    home, settings = Home(tmp_path / "home"), OnlineStoreSettings(online_store="redis")
    interactions = random_interactions()
    write_small_dataset(home, "small", interactions)
    with monkeypatch.context() as earlier:  # as Vireo built before it announced builds
        earlier.setattr(online_store, "BUILD_MARK", "_")
        build_features(home, "small", "none", settings=settings)
    client = connected(server)
    client.delete(*client.keys("vireo:features:*"))
    (home.root / "features" / ".small.builds").unlink()
    # As NFS may show it to another node for a minute.
    stale = shutil.copytree(home.features("small"), tmp_path / "stale" / "small")
    rows = open_rows(stale, 5)
    before = read_viewer(stale, "w1").watch_count
    readers = list[tuple[ForkServerProcess, Connection]]()
    try:
        for _ in range(2):
            ours, theirs = processes.Pipe()
            process = processes.Process(target=read_for_ever, args=(stale, server.url, theirs))
            process.start()
            theirs.close()  # so that a reader that ends is noticed
            readers.append((process, ours))
        for _, ours in readers:
            assert ours.poll(120)
            assert ours.recv() == before
        stopped = readers[0][0].pid
        assert stopped
        os.kill(stopped, signal.SIGSTOP)
        play = interactions[interactions["viewer_id"] == "w1"].iloc[-1:]
        play = play.assign(video_id="v58", event="like", row=len(interactions) + 1)
        write_small_dataset(home, "small", pd.concat([interactions, play], ignore_index=True))
        build_features(home, "small", "none", settings=settings)
        assert stored_builds(server) == announced(server)
        os.kill(stopped, signal.SIGCONT)
        for _, ours in readers:
            assert ours.poll(120)
            assert ours.recv() == before + 1, "0 is a stranger's"
        assert not any(ours.poll() for _, ours in readers)
        assert rows.superseded()
    finally:
        rows.close()
        for process, _ in readers:
            process.kill()
            process.join()


def test_a_build_that_another_overtook_is_not_announced(
    server: RunningRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_REDIS_URL", server.url)
    home, settings = Home(tmp_path / "home"), OnlineStoreSettings(online_store="redis")
    write_small_dataset(home, "small", random_interactions())
    build_features(home, "small", "none", settings=settings)
    first, client, multi = announced(server), connected(server), redis.client.Pipeline.multi

    def overtaken(pipe: redis.client.Pipeline) -> None:
        """Just before the announcement, on a volume without locks."""
        [building] = client.keys("vireo:features:*:building")
        client.set(building, "another")
        multi(pipe)

    with monkeypatch.context() as overtaking:
        overtaking.setattr(redis.client.Pipeline, "multi", overtaken)
        with pytest.raises(VireoError, match="another build of the features began meanwhile"):
            build_features(home, "small", "none", settings=settings)
    assert stored_builds(server) == announced(server) == first
    [building] = client.keys("vireo:features:*:building")
    assert client.get(building) == "another", "the other build is still under way"
    configuration = (home.features("small") / CONFIGURATION).read_text()
    assert any(project in configuration for project in first), "the folder wasn't replaced"
    assert read_viewer(home.features("small"), "w1").watch_count


@pytest.mark.parametrize("before", ["redis", "sqlite"])
def test_a_build_whose_folder_cannot_be_replaced_leaves_all_as_it_was(
    before: Literal["redis", "sqlite"],
    server: RunningRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIREO_REDIS_URL", server.url)
    home, settings = Home(tmp_path / "home"), OnlineStoreSettings(online_store="redis")
    write_small_dataset(home, "small", random_interactions())
    build_features(home, "small", "none", settings=OnlineStoreSettings(online_store=before))
    first = announced(server)
    assert len(first) == (before == "redis")

    def refuse(*_: Path) -> None:
        assert announced(server) - first, "it is announced by now"
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as full:
        full.setattr(folder, "_swap", refuse)
        with pytest.raises(VireoError, match="Read-only file system"):
            build_features(home, "small", "none", settings=settings)
    assert stored_builds(server) == announced(server) == first
    assert read_viewer(home.features("small"), "w1").watch_count


@pytest.mark.parametrize("moment", ["amid", "announced"])
@pytest.mark.parametrize("before", ["redis", "sqlite"])
def test_a_build_in_sqlite_deletes_what_killed_ones_left_in_redis(
    before: str,
    moment: str,
    server: RunningRedis,
    processes: ForkServerContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIREO_REDIS_URL", server.url)
    home = Home(tmp_path / "home")
    write_small_dataset(home, "small", random_interactions())
    environment = {"VIREO_HOME": str(home.root), "VIREO_REDIS_URL": server.url}
    for kind, killed in ((before, ""), ("redis", moment)):
        arguments = ({**environment, "VIREO_ONLINE_STORE": kind}, killed)
        process = processes.Process(target=vireo_features_build, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if killed else 0)
    assert len(stored_builds(server)) == (2 if before == "redis" else 1)
    sqlite = OnlineStoreSettings(online_store="sqlite")
    with monkeypatch.context() as away:  # its rows are deleted by the build after it
        away.setenv("VIREO_REDIS_URL", "redis://127.0.0.1:1")
        build_features(home, "small", "none", settings=OnlineStoreSettings(online_store="sqlite"))
    assert stored_builds(server)
    build_features(home, "small", "none", settings=sqlite)
    assert connected(server).keys("*") == []
    noted = (home.root / "features" / ".small.builds").read_text()
    assert "redis" not in noted, "builds from now on don't need Redis"
