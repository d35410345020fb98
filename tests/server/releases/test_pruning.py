import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.faulty_s3 import faulty_s3
from vireo.server.releases import layout, pruning
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]
FILES = (layout.VIDEO_IDS, layout.RANKER)


def age(path: Path, hours: float) -> None:
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


@pytest.fixture
def cache(tmp_path: Path) -> ReleaseCache:
    return ReleaseCache(tmp_path / "cache", keep=2)


def released(cache: ReleaseCache) -> set[str]:
    return {folder.name for folder in (cache.root / "releases").iterdir()}


def test_releases_used_last_and_those_that_were_served_last_stay(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    ids = [f"{name}-{letter}" for letter in "abcde"]
    for hours, release_id in enumerate(ids):
        publish(release_id)
        age(cache.fetch(store, release_id, FILES), hours)
    cache.remember("ranking", "production", ids[4])
    assert set(cache.prune()) == {ids[2], ids[3]}
    assert released(cache) == {ids[0], ids[1], ids[4]}
    cache.open(ids[4], FILES)
    cache.remember("ranking", "production", ids[0])
    assert cache.prune() == [], "it was opened just now"


def test_release_that_was_served_until_now_stays_for_a_rollback(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    ids = [f"{name}-{letter}" for letter in "abcd"]
    for hours, release_id in enumerate(ids):
        publish(release_id)
        age(cache.fetch(store, release_id, FILES), hours)
    cache.remember("ranking", "production", ids[3])
    cache.remember("ranking", "production", ids[0])
    assert cache.prune() == [ids[2]]
    cache.open(ids[3], FILES)


def test_blobs_go_with_the_last_release_that_has_them(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    ids = [f"{name}-{letter}" for letter in "abc"]
    for hours, release_id in enumerate(ids):
        publish(release_id)
        age(cache.fetch(store, release_id, FILES), hours)
    blobs = list((cache.root / "blobs").iterdir())
    assert len(blobs) == len(FILES), "releases share files that are the same"
    for blob in blobs:
        age(blob, 2)
    cache.prune()
    assert set((cache.root / "blobs").iterdir()) == set(blobs)
    ReleaseCache(cache.root, keep=0).prune()
    assert list((cache.root / "blobs").iterdir()) == []


def test_blob_that_is_about_to_be_linked_stays(cache: ReleaseCache) -> None:
    blob = cache.root / "blobs" / "0"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"new")
    cache.prune()
    assert blob.exists()


def test_old_partial_downloads_without_a_writer_are_deleted(
    cache: ReleaseCache,
) -> None:
    blobs = cache.root / "blobs"
    blobs.mkdir(parents=True)
    old, new, written = (blobs / f"{name}.part" for name in ("old", "new", "written"))
    for part in (old, new, written):
        part.write_bytes(b"some")
    age(old, 2)
    age(written, 2)
    with written.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cache.prune()
    assert not old.exists()
    assert new.exists()
    assert written.exists()


def test_a_release_that_another_pod_is_fetching_is_not_pruned(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(name)
    pruned: list[list[str]] = []

    def prunes() -> None:
        pruned.append(ReleaseCache(cache.root, keep=0).prune())

    with faulty_s3(store.settings) as proxy:
        proxy.only, proxy.before_answer = layout.RANKER.encode(), prunes
        cache.fetch(ReleaseStore(proxy.settings), name, (layout.VIDEO_IDS,))
        folder = cache.fetch(ReleaseStore(proxy.settings), name, FILES)
    assert pruned == [[]]
    assert all((folder / path).exists() for path in FILES)


def test_a_release_that_is_noted_while_another_pod_prunes_stays(
    store: ReleaseStore,
    cache: ReleaseCache,
    publish: Publish,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(name)
    age(cache.fetch(store, name, FILES), 1)
    age_of = pruning._age

    def noted_by_then(path: Path) -> float:
        # Called once the notes have been read, before anything is deleted.
        cache.remember("ranking", "production", name)
        return age_of(path)

    monkeypatch.setattr(pruning, "_age", noted_by_then)
    assert ReleaseCache(cache.root, keep=0).prune() == []
    cache.open(name, FILES)


def test_a_release_pruned_before_its_record_is_reported_as_gone(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(name)
    cache.fetch(store, name, FILES)
    assert ReleaseCache(cache.root, keep=0).prune() == [name]
    assert not cache.remember("ranking", "production", name)
    cache.fetch(store, name, FILES)
    assert cache.remember("ranking", "production", name)


def test_nothing_is_pruned_without_a_cache(tmp_path: Path) -> None:
    assert ReleaseCache(tmp_path / "none").prune() == []
