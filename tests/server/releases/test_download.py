"""Downloads that break off, are repeated, race, and bring something else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.releases import build_release, write_manifest
from tests.builders.s3 import client_of
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.progress import LoadProgress, LoadStoppedError, Stage
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import StoreError, StoreUnavailableError

pytestmark = pytest.mark.integration
BIG = "videos/big.bin"
SIZE = 3_000_000
IMPATIENT: dict[str, Any] = {"read_timeout": 2.0, "retries": 0}
"""As long as a busy machine may take for an answer, and no longer."""


@pytest.fixture
def publish_big(store: ReleaseStore, tmp_path: Path) -> Callable[[str], Path]:
    """Publish a release with a file that takes many chunks."""

    def build_and_publish(release_id: str) -> Path:
        folder = build_release(tmp_path / "staged" / release_id, release_id=release_id)
        content = np.random.default_rng(len(release_id)).bytes(SIZE)
        (folder / BIG).write_bytes(content)
        write_manifest(folder, release_id=release_id)
        store.publish(folder)
        return folder

    return build_and_publish


@pytest.fixture
def cache(tmp_path: Path) -> ReleaseCache:
    return ReleaseCache(tmp_path / "cache")


def part_of(cache: ReleaseCache, release_id: str) -> Path:
    return cache.root / "releases" / release_id / f"{BIG}.part"


@pytest.mark.parametrize("fault", ["stops", "hangs"])
def test_an_interrupted_download_resumes(
    s3: S3Settings,
    cache: ReleaseCache,
    publish_big: Callable[[str], Path],
    name: str,
    fault: str,
) -> None:
    staged = publish_big(name)
    progress = LoadProgress()
    with faulty_s3(s3, **IMPATIENT) as proxy:
        proxy.fault, proxy.only, proxy.after_bytes = fault, b"big.bin", 2_000_000  # type: ignore[assignment]
        store = ReleaseStore(proxy.settings)
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            cache.fetch(store, name, (BIG,), progress)
        had = part_of(cache, name).stat().st_size
        assert 0 < had < 2_000_000
        assert progress.value.stage is Stage.DOWNLOADING
        assert (progress.value.bytes_done, progress.value.bytes_total) == (had, SIZE)
        proxy.fault = "none"
        folder = cache.fetch(store, name, (BIG,))
        assert proxy.requests[-1].lower().endswith(b"range: bytes=%d-" % had)
    assert (folder / BIG).read_bytes() == (staged / BIG).read_bytes()
    assert not list(cache.root.rglob("*.part"))


def test_partial_files_of_other_content_are_deleted_and_downloaded_again(
    store: ReleaseStore, cache: ReleaseCache, publish_big: Callable[[str], Path], name: str
) -> None:
    staged = publish_big(name)
    part = part_of(cache, name)
    part.parent.mkdir(parents=True)
    for remains in (b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)):
        part.write_bytes(remains)
        folder = cache.fetch(store, name, (BIG,))
        assert (folder / BIG).read_bytes() == (staged / BIG).read_bytes()
        (folder / BIG).unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * SIZE, r"big\.bin of release .* \(another SHA-256\); publish the release again"),
        (b"x" * 1000, r"\(1000 bytes instead of 3000000\)"),
        (b"x" * (SIZE + 1), "is larger in the store than the 3000000 bytes"),
    ],
)
def test_wrong_content_is_reported_and_deleted(
    store: ReleaseStore,
    s3: S3Settings,
    cache: ReleaseCache,
    publish_big: Callable[[str], Path],
    name: str,
    content: bytes,
    message: str,
) -> None:
    publish_big(name)
    client_of(s3).put_object(s3.bucket, f"releases/{name}/{BIG}", BytesIO(content), len(content))
    with pytest.raises(ReleaseError, match=message):
        cache.fetch(store, name, (BIG,))
    assert not list(cache.root.rglob("*.part"))


def test_a_file_shorter_than_its_partial_download_is_reported(
    store: ReleaseStore,
    s3: S3Settings,
    cache: ReleaseCache,
    publish_big: Callable[[str], Path],
    name: str,
) -> None:
    publish_big(name)
    part = part_of(cache, name)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 2000)
    client_of(s3).put_object(s3.bucket, f"releases/{name}/{BIG}", BytesIO(b"x" * 1000), 1000)
    with pytest.raises(ReleaseError, match="1000 bytes instead of 3000000"):
        cache.fetch(store, name, (BIG,))


def test_pods_of_a_machine_download_a_file_once(
    s3: S3Settings, cache: ReleaseCache, publish_big: Callable[[str], Path], name: str
) -> None:
    staged = publish_big(name)
    with faulty_s3(s3) as proxy, ThreadPoolExecutor(6) as threads:
        progresses = [LoadProgress() for _ in range(6)]

        def fetch(progress: LoadProgress) -> Path:
            own = ReleaseCache(cache.root)
            return own.fetch(ReleaseStore(proxy.settings), name, (BIG,), progress)

        folders = set(threads.map(fetch, progresses))
        downloads = [line for line in proxy.requests if b"big.bin" in line]
    assert len(downloads) == 1
    [folder] = folders
    assert (folder / BIG).read_bytes() == (staged / BIG).read_bytes()
    assert {progress.value.bytes_done for progress in progresses} == {SIZE}


def test_release_that_is_here_is_fetched_without_the_store(
    s3: S3Settings, cache: ReleaseCache, publish_big: Callable[[str], Path], name: str
) -> None:
    publish_big(name)
    with faulty_s3(s3, **IMPATIENT) as proxy:
        store = ReleaseStore(proxy.settings)
        folder = cache.fetch(store, name, (BIG,))
        proxy.fault = "silent"
        assert cache.fetch(store, name, (BIG,)) == folder


@pytest.mark.parametrize(
    ("fault", "message"), [("refuses", "refuses the key"), ("fails", "InternalError|fails")]
)
def test_an_error_response_is_reported(
    s3: S3Settings,
    cache: ReleaseCache,
    publish_big: Callable[[str], Path],
    name: str,
    fault: str,
    message: str,
) -> None:
    publish_big(name)
    with faulty_s3(s3, **IMPATIENT) as proxy:
        proxy.fault, proxy.only = fault, b"big.bin"  # type: ignore[assignment]
        with pytest.raises(StoreError, match=message):
            cache.fetch(ReleaseStore(proxy.settings), name, (BIG,))
    assert not list(cache.root.rglob("*.part")), "nothing came, so nothing is kept"


def test_a_cancelled_load_ends_and_keeps_partial_files(
    store: ReleaseStore, cache: ReleaseCache, publish_big: Callable[[str], Path], name: str
) -> None:
    staged = publish_big(name)
    progress = LoadProgress()
    progress.stop()
    with pytest.raises(LoadStoppedError):
        cache.fetch(store, name, (BIG,), progress)
    progress = LoadProgress()
    folder = cache.fetch(store, name, (BIG,), progress)
    assert (folder / BIG).read_bytes() == (staged / BIG).read_bytes()
