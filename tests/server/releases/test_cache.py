"""The cache of a machine's pods: downloads that break off, are repeated, race and bring rubbish."""

import fcntl
import json
import os
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.faulty_s3 import Fault, faulty_s3
from tests.builders.loading import Followed
from tests.builders.releases import build_release, described_again
from tests.builders.s3 import client_of
from tests.builders.waiting import wait_until
from vireo.server.releases import cache, layout
from vireo.server.releases.bucket import StoreUnavailableError
from vireo.server.releases.cache import CacheError, LoadProgress, ReleaseCache, Stage
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest, ReleaseError
from vireo.server.releases.store import ReleaseStore, release_object

pytestmark = pytest.mark.integration
BIG = "videos/big.bin"
SIZE = 3_000_000
FILES = (layout.VIDEO_IDS, BIG)
IMPATIENT: dict[str, Any] = {"read_timeout": 2.0, "retries": 0}
"""As long as a busy machine may take for an answer, and no longer."""


@dataclass(frozen=True)
class Machine:
    """A cache, and a published release with a file that takes many chunks."""

    store: ReleaseStore
    cache: ReleaseCache
    name: str
    staged: Path

    @property
    def part(self) -> Path:
        """What has come of the big file."""
        return self.cache.root / "releases" / self.name / f"{BIG}.part"

    def put(self, path: str, content: bytes) -> None:
        """Replace a file in the store, which itself never would."""
        place, bucket = release_object(self.name, path), self.store.bucket.name
        client_of(self.store.settings).put_object(bucket, place, BytesIO(content), len(content))

    def fetch(self, store: ReleaseStore | None = None, *files: str, **more: Any) -> Path:
        """Fetch the release, by default all of FILES from the store itself."""
        return self.cache.fetch(store or self.store, self.name, files or FILES, **more)

    def cached(self) -> Path:
        """Fetch it without the store."""
        return self.cache.fetch(None, self.name, FILES)

    def assert_whole(self, folder: Path) -> None:
        assert Manifest.read(folder) == Manifest.read(self.staged)
        for path in FILES:
            assert (folder / path).read_bytes() == (self.staged / path).read_bytes()
        assert not list(self.cache.root.rglob("*.part"))


@pytest.fixture
def machine(store: ReleaseStore, name: str, tmp_path: Path) -> Machine:
    folder = build_release(tmp_path / "staged" / name, release_id=name)
    (folder / BIG).write_bytes(np.random.default_rng(len(name)).bytes(SIZE))
    store.publish(described_again(folder))
    return Machine(store, ReleaseCache(tmp_path / "cache"), name, folder)


def test_a_fetched_release_needs_no_store_any_more(machine: Machine) -> None:
    with pytest.raises(CacheError, match=f"release {machine.name} isn't in the cache"):
        machine.cached()
    folder = machine.fetch()
    machine.assert_whole(folder)
    assert not (folder / layout.VIDEO_INDEX).exists(), "only what was asked for is fetched"
    with faulty_s3(machine.store.settings, **IMPATIENT) as proxy:
        proxy.fault = "silent"
        assert machine.fetch(ReleaseStore(proxy.settings)) == machine.cached() == folder
    with pytest.raises(CacheError, match=r"videos/titles\.bin of release .* is missing"):
        machine.cache.fetch(None, machine.name, (layout.VIDEO_TITLES,))
    with pytest.raises(ReleaseError, match=f"release {machine.name} has no videos/other.npy"):
        machine.fetch(None, "videos/other.npy")


def test_a_damaged_file_is_downloaded_again(machine: Machine) -> None:
    folder = machine.fetch()
    (folder / BIG).write_bytes((machine.staged / BIG).read_bytes()[::-1])
    with pytest.raises(CacheError, match=r"videos/big\.bin of release .* damaged"):
        machine.cached()
    machine.assert_whole(machine.fetch())


@pytest.mark.parametrize("fault", ["stops", "hangs"])
def test_an_interrupted_download_resumes(machine: Machine, fault: Fault) -> None:
    progress = LoadProgress()
    with faulty_s3(machine.store.settings, **IMPATIENT) as proxy:
        proxy.fault, proxy.only, proxy.after_bytes = fault, b"big.bin", 2_000_000
        store = ReleaseStore(proxy.settings)
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            machine.fetch(store, BIG, progress=progress)
        had = machine.part.stat().st_size
        assert 0 < had < 2_000_000
        assert progress.stage is Stage.DOWNLOADING
        assert (progress.bytes_done, progress.bytes_total) == (had, SIZE)
        proxy.fault = "none"
        machine.fetch(store, BIG)
        assert proxy.requests[-1].lower().endswith(b"range: bytes=%d-" % had)
    machine.assert_whole(machine.fetch())


@pytest.mark.parametrize("remains", [b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)], ids=len)
def test_partial_files_of_other_content_are_downloaded_again(
    machine: Machine, remains: bytes
) -> None:
    machine.part.parent.mkdir(parents=True)
    machine.part.write_bytes(remains)
    machine.assert_whole(machine.fetch())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * SIZE, r"big\.bin of release .* \(another SHA-256\); publish the release again"),
        (b"x" * 1000, r"\(1000 bytes instead of 3000000\)"),
        (b"x" * (SIZE + 1), r"\(3000001 bytes instead of 3000000\)"),
    ],
    ids=["other", "short", "long"],
)
@pytest.mark.parametrize("had", [0, 2000])
def test_wrong_content_in_the_store_is_refused_and_deleted(
    machine: Machine, content: bytes, message: str, had: int
) -> None:
    machine.put(BIG, content)
    if had:
        machine.part.parent.mkdir(parents=True)
        machine.part.write_bytes(b"y" * had)
    with pytest.raises(ReleaseError, match=message):
        machine.fetch()
    assert not machine.part.exists()
    with pytest.raises(CacheError):
        machine.cached()


def test_pods_of_a_machine_download_a_file_once(machine: Machine) -> None:
    with faulty_s3(machine.store.settings) as proxy, ThreadPoolExecutor(6) as threads:
        progresses = [LoadProgress() for _ in range(6)]

        def fetch(progress: LoadProgress) -> Path:
            return machine.fetch(ReleaseStore(proxy.settings), progress=progress)

        [folder] = set(threads.map(fetch, progresses))
        downloads = [line for line in proxy.requests if b"big.bin" in line]
    assert len(downloads) == 1
    machine.assert_whole(folder)
    size = SIZE + (folder / layout.VIDEO_IDS).stat().st_size
    assert {progress.bytes_done for progress in progresses} == {size}


def test_a_cache_that_cannot_hold_a_release_is_explained(machine: Machine) -> None:
    manifest = json.loads((machine.staged / MANIFEST_NAME).read_bytes())
    manifest["files"][BIG]["size"] = 1 << 53
    machine.put(MANIFEST_NAME, json.dumps(manifest).encode())
    with pytest.raises(CacheError, match=r"needs 9,007,199,254\.\d MB more in .*; free some disk"):
        machine.fetch()
    with pytest.raises(CacheError, match=r"can't be used: Not a directory; .* set VIREO_CACHE"):
        ReleaseCache(machine.staged / BIG).fetch(machine.store, machine.name, FILES)


def test_a_failed_write_is_reported_and_leaves_nothing(machine: Machine) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(CacheError, match="can't be used: File too large; free some disk"):
            machine.fetch(None, BIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [each for each in machine.cache.root.rglob("*") if each.is_file()]


def test_a_download_that_stalls_in_another_process_is_not_awaited_and_one_that_goes_on_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_STALLED_SECONDS", 0.05)
    machine.part.parent.mkdir(parents=True)
    holder, looks, files_in = os.open(machine.part.parent.parent, os.O_RDONLY), [0], cache._files_in
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(CacheError, match=r"for 0 s without a byte; see what holds .*releases/"):
        machine.fetch()

    def advanced(folder: Path) -> object:
        """Look after the holder has gone on: by a byte, and then as if it had verified a file."""
        looks[0] += 1
        if looks[0] <= 3:
            machine.part.write_bytes(bytes(looks[0]))
        else:
            os.utime(machine.part, (looks[0], looks[0]))
        if looks[0] == 6:
            os.close(holder)
        return files_in(folder)

    monkeypatch.setattr(cache, "_files_in", advanced)
    machine.assert_whole(machine.fetch())
    assert looks == [6]


def test_a_download_shows_which_files_it_has_verified_and_a_look_does_not(
    machine: Machine,
) -> None:
    folder = machine.fetch()
    os.utime(folder / BIG, (0, 0))
    machine.cached()
    assert (folder / BIG).stat().st_mtime == 0
    (folder / layout.VIDEO_IDS).write_bytes(b"damaged")
    machine.fetch()
    assert (folder / BIG).stat().st_mtime > 0


def test_a_download_begins_anew_in_a_folder_that_was_deleted_during_the_wait(
    machine: Machine,
) -> None:
    machine.fetch()
    folder, progress = machine.part.parent.parent, LoadProgress()
    machine.part.with_suffix("").write_bytes(b"damaged")
    holder = os.open(folder, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as threads:
        fetched = threads.submit(machine.fetch, progress=progress)
        wait_until(lambda: progress.stage is Stage.DOWNLOADING)
        shutil.rmtree(folder)
        os.close(holder)
        machine.assert_whole(fetched.result())


def test_the_last_release_is_remembered_by_kind_of_pod_and_channel(tmp_path: Path) -> None:
    cache = ReleaseCache(tmp_path / "cache")
    assert cache.prune() == []
    assert cache.last("ranking", "production") is None
    for channel, release_id in (("production", "r1"), ("production", "r2"), ("canary", "r3")):
        cache.remember("ranking", channel, release_id)
    assert cache.last("ranking", "production") == "r2"
    assert cache.last("candidate", "production") is None


@pytest.fixture
def aged(followed: Followed) -> tuple[ReleaseCache, list[str]]:
    """A cache with five releases, used 0 to 8 hours ago, and their ids."""
    cache, ids = ReleaseCache(followed.cache.root, keep=2), followed.publish(*"abcde")
    for number, release_id in enumerate(ids):
        then = time.time() - 7200 * number
        os.utime(cache.fetch(followed.store, release_id, (layout.VIDEO_IDS,)), (then, then))
    return cache, ids


def test_releases_used_last_and_those_that_were_served_last_stay(
    aged: tuple[ReleaseCache, list[str]],
) -> None:
    cache, ids = aged
    cache.remember("ranking", "production", ids[4])
    assert set(cache.prune()) == {ids[2], ids[3]}
    assert {each.name for each in (cache.root / "releases").iterdir()} == {ids[0], ids[1], ids[4]}
    cache.remember("ranking", "production", ids[0])
    assert cache.prune() == [], "what was served until now stays for a rollback"


def test_a_full_disk_is_pruned_before_a_download(
    aged: tuple[ReleaseCache, list[str]], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, ids = aged
    oldest = cache.root / "releases" / ids[4]

    def usage(_: Path) -> shutil._ntuple_diskusage:
        return shutil._ntuple_diskusage(1, 1, 0 if oldest.exists() else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    Machine(machine.store, cache, machine.name, machine.staged).fetch()
    assert not oldest.exists()


def test_releases_that_may_be_in_use_stay(aged: tuple[ReleaseCache, list[str]]) -> None:
    cache, ids = aged
    cache.fetch(None, ids[3], (layout.VIDEO_IDS,))
    slow = os.open(cache.root / "releases" / ids[4], os.O_RDONLY)
    fcntl.flock(slow, fcntl.LOCK_EX)  # another process has been downloading into it for hours
    assert set(ReleaseCache(cache.root, keep=0).prune()) == {ids[1], ids[2]}
    os.close(slow)
    assert ReleaseCache(cache.root, keep=0).prune() == [ids[4]]
    with pytest.raises(CacheError, match="isn't in the cache"):
        cache.fetch(None, ids[1], (layout.VIDEO_IDS,))
