from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import structlog

from tests.builders.loading import running, serves
from tests.builders.releases import build_release, write_manifest
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.server.ranking.pipeline import RankingPipeline
from vireo.server.ranking.release import FILES, RankingRelease
from vireo.server.releases import layout
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channels import Change
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]


def build(folder: Path) -> RankingPipeline:
    release = RankingRelease.load(folder)
    release.replay_goldens()
    return RankingPipeline(release)


def loader_of(
    store: ReleaseStore,
    cache: Path,
    channel: str,
    build: Callable[[Path], RankingPipeline] = build,
) -> ReleaseLoader[RankingPipeline]:
    return ReleaseLoader(
        store,
        ReleaseCache(cache),
        channel=channel,
        pod="ranking",
        files=FILES,
        build=build,
        poll_seconds=0.02,
    )


def damaged_release(folder: Path, release_id: str) -> Path:
    """A release whose ranker answers otherwise than its goldens, digests all right."""
    build_release(folder, release_id=release_id)
    other = build_release(folder.with_name("other"), seed=1)
    (other / layout.GOLDEN_RANKER).replace(folder / layout.GOLDEN_RANKER)
    write_manifest(folder, release_id=release_id)
    return folder


async def test_loader_waits_for_the_first_release_and_serves_it(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    loader = loader_of(store, tmp_path / "cache", name)
    async with running(loader) as announced:
        await until(lambda: bool(loader.failures.reason))
        assert f"channel {name} names no release yet; publish one" in loader.failures.reason
        assert not announced
        publish(name)
        store.change_channel(name, Change(name), None)
        await until(lambda: announced == [name] and not loader.failures.reason)
        assert loader.serving is not None
        assert loader.serving.origin == "s3"
        assert loader.serving.content.release.manifest.release_id == name


async def test_new_release_of_the_channel_is_swapped_in_and_calls_keep_the_old(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(f"{name}-a")
    publish(f"{name}-b")
    store.change_channel(name, Change(f"{name}-a"), None)
    loader = loader_of(store, tmp_path / "cache", name)
    async with running(loader) as announced:
        await until(lambda: serves(loader, f"{name}-a"))
        held = loader.serving
        store.change_channel(name, Change(f"{name}-b"), store.read_channel(name))
        await until(lambda: serves(loader, f"{name}-b"))
        assert held is not None
        assert held.content.release.manifest.release_id == f"{name}-a"
        assert announced == [f"{name}-a"]


async def test_release_that_fails_its_goldens_keeps_the_old_one_serving(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(f"{name}-a")
    store.publish(damaged_release(tmp_path / "bad", f"{name}-bad"))
    publish(f"{name}-c")
    store.change_channel(name, Change(f"{name}-a"), None)
    loader = loader_of(store, tmp_path / "cache", name)
    async with running(loader):
        await until(lambda: serves(loader, f"{name}-a"))
        store.change_channel(name, Change(f"{name}-bad"), store.read_channel(name))
        await until(lambda: "differs from the recorded outputs" in loader.failures.reason)
        assert serves(loader, f"{name}-a")
        store.change_channel(name, Change(f"{name}-c"), store.read_channel(name))
        await until(lambda: serves(loader, f"{name}-c"))
        await until(lambda: not loader.failures.reason)


@pytest.mark.parametrize(
    ("elsewhere", "reason"),
    [
        (lambda _: unreachable_s3(), "can't be reached"),
        (lambda s3: s3.model_copy(update={"bucket": "mistyped"}), "has no bucket 'mistyped'"),
    ],
    ids=["down", "another bucket"],
)
async def test_a_pod_that_starts_without_its_bucket_serves_from_its_cache(
    store: ReleaseStore,
    publish: Publish,
    name: str,
    tmp_path: Path,
    elsewhere: Callable[[S3Settings], S3Settings],
    reason: str,
) -> None:
    publish(name)
    store.change_channel(name, Change(name), None)
    loader = loader_of(store, tmp_path / "cache", name)
    async with running(loader) as announced:
        await until(lambda: announced == [name])
    again = loader_of(ReleaseStore(elsewhere(store.settings)), tmp_path / "cache", name)
    async with running(again) as announced_again:
        await until(lambda: announced_again == [name])
        assert again.serving is not None
        assert again.serving.origin == "cache"
        assert reason in again.failures.reason


async def test_broken_new_release_at_the_start_falls_back_to_the_last_good_one(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(f"{name}-a")
    store.publish(damaged_release(tmp_path / "bad", f"{name}-bad"))
    store.change_channel(name, Change(f"{name}-a"), None)
    loader = loader_of(store, tmp_path / "cache", name)
    async with running(loader) as announced:
        await until(lambda: announced == [f"{name}-a"])
    store.change_channel(name, Change(f"{name}-bad"), store.read_channel(name))
    again = loader_of(store, tmp_path / "cache", name)
    async with running(again):
        await until(lambda: serves(again, f"{name}-a"))
        assert "differs from the recorded outputs" in again.failures.reason


async def test_pod_without_store_and_cache_serves_nothing_and_says_why(tmp_path: Path) -> None:
    loader = loader_of(ReleaseStore(unreachable_s3()), tmp_path / "cache", "production")
    async with running(loader) as announced:
        await until(lambda: "can't be reached" in loader.failures.reason)
        assert loader.serving is None
        assert not announced


async def test_an_unreadable_record_of_the_last_release_is_reported_and_retried(
    tmp_path: Path,
) -> None:
    note = tmp_path / "cache" / "last" / "ranking" / "production"
    note.mkdir(parents=True)  # where a file should be
    loader = loader_of(ReleaseStore(unreachable_s3()), tmp_path / "cache", "production")
    async with running(loader):
        await until(lambda: "can't be used" in loader.failures.reason)


async def test_release_that_cannot_be_noted_in_the_cache_is_served_and_noted_later(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    store.change_channel(name, Change(name), None)
    in_the_way = tmp_path / "cache" / "last"
    in_the_way.parent.mkdir()
    in_the_way.write_text("where a folder should be")
    loader = loader_of(store, tmp_path / "cache", name)
    with structlog.testing.capture_logs() as logs:
        async with running(loader) as announced:
            await until(lambda: loader._record._retries.failures >= 3)
            assert announced == [name]
            assert loader.failures.latest is None
            in_the_way.unlink()
            await until(lambda: ReleaseCache(tmp_path / "cache").last("ranking", name) == name)
    warnings = [line for line in logs if line["log_level"] in ("warning", "error")]
    assert [(line["release"], "can't be used" in line["reason"]) for line in warnings] == [
        (name, True)
    ]


async def test_damaged_cache_is_not_served(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    folder = ReleaseCache(tmp_path / "cache").fetch(store, name, FILES)
    ReleaseCache(tmp_path / "cache").remember("ranking", name, name)
    vectors = np.load(folder / layout.VIDEO_VECTORS)
    np.save(folder / layout.VIDEO_VECTORS, -vectors)
    loader = loader_of(ReleaseStore(unreachable_s3()), tmp_path / "cache", name)
    async with running(loader):
        await until(lambda: "damaged in the cache" in loader.failures.reason)
        assert "can't be reached" in loader.failures.reason
        assert loader.serving is None


async def test_bug_in_building_is_logged_with_its_stack_once_and_retried(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    store.change_channel(name, Change(name), None)
    attempts: list[Path] = []

    def fails_twice(folder: Path) -> RankingPipeline:
        attempts.append(folder)
        if len(attempts) < 3:
            raise ZeroDivisionError("a bug")
        return build(folder)

    loader = loader_of(store, tmp_path / "cache", name, fails_twice)
    with structlog.testing.capture_logs() as logs:
        async with running(loader):
            await until(lambda: serves(loader, name))
    failures = [line for line in logs if line["event"] == "release not loaded"]
    assert [(line["reason"], line["exc_info"]) for line in failures] == [
        ("ZeroDivisionError: a bug", True)
    ]


async def test_channel_that_names_nothing_is_not_answered_from_the_cache(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    ReleaseCache(tmp_path / "cache").fetch(store, name, FILES)
    ReleaseCache(tmp_path / "cache").remember("ranking", name, name)
    loader = loader_of(store, tmp_path / "cache", name)
    async with running(loader):
        await until(lambda: "names no release yet" in loader.failures.reason)
        assert loader.serving is None


async def test_a_release_that_was_pruned_while_it_was_built_is_found_again_without_the_store(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    store.change_channel(name, Change(name), None)
    cache = tmp_path / "cache"

    def pruned_meanwhile(folder: Path) -> RankingPipeline:
        built = build(folder)
        assert ReleaseCache(cache, keep=0).prune() == [name]  # by another pod
        return built

    loader = loader_of(store, cache, name, pruned_meanwhile)
    async with running(loader):
        await until(lambda: loader._record.release_id == name)
    again = loader_of(ReleaseStore(unreachable_s3()), cache, name)
    async with running(again):
        await until(lambda: serves(again, name))
