import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.s3 import client_of
from vireo.server.releases import layout
from vireo.server.releases.cache import CacheError, ReleaseCache
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest, ReleaseError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import NotInStoreError

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]
FILES = (layout.VIDEO_IDS, layout.RANKER, layout.VIDEO_VECTORS)


@pytest.fixture
def cache(tmp_path: Path) -> ReleaseCache:
    return ReleaseCache(tmp_path / "cache")


def test_fetched_folder_has_the_files_that_were_asked_for(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    staged = publish(name)
    folder = cache.fetch(store, name, FILES)
    assert Manifest.read(folder) == Manifest.read(staged)
    for path in FILES:
        assert (folder / path).read_bytes() == (staged / path).read_bytes()
    assert not (folder / layout.VIDEO_INDEX).exists()


def test_files_of_another_release_here_are_shared_unless_they_are_damaged(
    store: ReleaseStore, s3: S3Settings, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(f"{name}-a")
    publish(f"{name}-b")
    first = cache.fetch(store, f"{name}-a", FILES)
    (first / layout.RANKER).write_bytes(b"damaged")
    with faulty_s3(s3) as proxy:
        second = cache.fetch(ReleaseStore(proxy.settings), f"{name}-b", FILES)
        fetched = [line for line in proxy.requests if b"manifest.json" not in line]
    assert [layout.RANKER.encode() in line for line in fetched] == [True]
    assert (second / layout.VIDEO_IDS).samefile(first / layout.VIDEO_IDS)
    shutil.rmtree(first)
    assert cache.fetch(None, f"{name}-b", FILES) == second


def test_files_that_are_here_are_not_downloaded_again(
    store: ReleaseStore, s3: S3Settings, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(name)
    cache.fetch(store, name, FILES)
    for path in FILES:
        client_of(s3).remove_object(s3.bucket, f"releases/{name}/{path}")
    folder = cache.fetch(store, name, FILES)
    assert (folder / layout.RANKER).exists()
    with pytest.raises(NotInStoreError):
        ReleaseCache(cache.root / "empty").fetch(store, name, FILES)


def test_damaged_blob_is_downloaded_again(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    staged = publish(name)
    folder = cache.fetch(store, name, FILES)
    content = (staged / layout.RANKER).read_bytes()
    (folder / layout.RANKER).write_bytes(content[::-1])
    with pytest.raises(CacheError, match=r"ranker/1/model\.onnx of release .* damaged"):
        cache.fetch(None, name, FILES)
    folder = cache.fetch(store, name, FILES)
    assert (folder / layout.RANKER).read_bytes() == content


def test_file_that_was_changed_in_the_store_is_refused(
    store: ReleaseStore, s3: S3Settings, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(name)
    client_of(s3).put_object(s3.bucket, f"releases/{name}/{layout.RANKER}", BytesIO(b"evil"), 4)
    with pytest.raises(ReleaseError, match=r"ranker/1/model\.onnx of release .* isn't the file"):
        cache.fetch(store, name, FILES)
    assert not list(cache.root.rglob("*.part"))
    with pytest.raises(CacheError):
        cache.fetch(None, name, FILES)


def test_release_opens_without_the_store_once_fetched(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(name)
    with pytest.raises(CacheError, match=f"release {name} isn't in the cache"):
        cache.fetch(None, name, FILES)
    assert cache.fetch(store, name, FILES) == cache.fetch(None, name, FILES)
    with pytest.raises(CacheError, match=r"videos/titles\.bin of release .* is missing"):
        cache.fetch(None, name, (layout.VIDEO_TITLES,))


def test_pods_that_fetch_at_the_same_time_all_get_the_release(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(name)
    with ThreadPoolExecutor(6) as threads:
        folders = list(threads.map(lambda _: cache.fetch(store, name, FILES), range(6)))
    assert len(set(folders)) == 1
    assert cache.fetch(None, name, FILES) == folders[0]
    assert not list(cache.root.rglob("*.part"))


def test_release_without_a_file_that_is_needed_is_refused(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    publish(name)
    with pytest.raises(ReleaseError, match=f"release {name} has no videos/other.npy"):
        cache.fetch(store, name, ("videos/other.npy",))


def make_too_large(s3: S3Settings, staged: Path) -> None:
    """Have the manifest in the store say that the ranker is larger than any disk."""
    manifest = json.loads((staged / MANIFEST_NAME).read_bytes())
    manifest["files"][layout.RANKER]["size"] = 1 << 53
    body = json.dumps(manifest).encode()
    place = f"releases/{manifest['release_id']}/{MANIFEST_NAME}"
    client_of(s3).put_object(s3.bucket, place, BytesIO(body), len(body))


def test_release_larger_than_the_disk_is_refused_before_the_download(
    store: ReleaseStore, s3: S3Settings, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    make_too_large(s3, publish(name))
    with pytest.raises(CacheError, match=r"needs 9,007,199,254\.\d MB more in .*; free some disk"):
        cache.fetch(store, name, FILES)


def test_folder_that_cannot_be_written_is_explained(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match=r"can't be used: Not a directory; .* set VIREO_CACHE"):
        ReleaseCache(tmp_path / "file").fetch(store, name, FILES)


def test_last_release_is_remembered_by_kind_of_pod_and_channel(cache: ReleaseCache) -> None:
    assert cache.last("ranking", "production") is None
    cache.remember("ranking", "production", "r1")
    cache.remember("ranking", "production", "r2")
    cache.remember("ranking", "canary", "r3")
    assert cache.last("ranking", "production") == "r2"
    assert cache.last("candidate", "production") is None


def aged(cache: ReleaseCache, store: ReleaseStore, publish: Publish, name: str) -> list[str]:
    """Fetch five releases, used 0 to 8 hours ago; return their ids."""
    ids = [f"{name}-{letter}" for letter in "abcde"]
    for number, release_id in enumerate(ids):
        publish(release_id)
        then = time.time() - 7200 * number
        os.utime(cache.fetch(store, release_id, FILES), (then, then))
    return ids


def test_releases_used_last_and_those_that_were_served_last_stay(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    ids = aged(cache, store, publish, name)
    cache = ReleaseCache(cache.root, keep=2)
    cache.remember("ranking", "production", ids[4])
    assert set(cache.prune()) == {ids[2], ids[3]}
    assert {each.name for each in (cache.root / "releases").iterdir()} == {ids[0], ids[1], ids[4]}
    cache.remember("ranking", "production", ids[0])
    assert cache.prune() == [], "what was served until now stays for a rollback"
    cache.fetch(None, ids[4], FILES)


def test_releases_that_may_be_in_use_stay(
    store: ReleaseStore, cache: ReleaseCache, publish: Publish, name: str
) -> None:
    ids = aged(cache, store, publish, name)
    cache.fetch(None, ids[3], FILES)
    assert set(ReleaseCache(cache.root, keep=0).prune()) == {ids[1], ids[2], ids[4]}


def test_nothing_is_pruned_without_a_cache(tmp_path: Path) -> None:
    assert ReleaseCache(tmp_path / "none").prune() == []
