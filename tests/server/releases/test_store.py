from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from pydantic import SecretStr

from server.errors import VireoError
from server.releases import layout
from server.releases.manifest import Manifest, ReleaseError
from server.releases.s3 import S3Settings
from server.releases.store import ReleaseStore
from server.releases.store_errors import (
    ChannelChangedError,
    NotInStoreError,
    StoreError,
    StoreUnavailableError,
)
from tests.builders.releases import build_release
from tests.builders.s3 import client_of, unreachable_s3

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]


def test_published_release_reads_back_as_it_was(
    store: ReleaseStore, name: str, tmp_path: Path
) -> None:
    folder = build_release(tmp_path, release_id=name)
    uploaded: list[int] = []
    manifest = store.publish(folder, uploaded.append)
    assert store.manifest(name) == manifest == Manifest.read(folder)
    assert sum(uploaded) == sum(entry.size for entry in manifest.files.values())
    for path in manifest.files:
        assert b"".join(store.read(name, path)) == (folder / path).read_bytes()
    assert manifest in store.list()


def test_publishing_the_same_release_again_does_nothing(
    store: ReleaseStore, publish: Publish, name: str
) -> None:
    folder = publish(name)
    uploaded: list[int] = []
    store.publish(folder, uploaded.append)
    assert uploaded == []


def test_other_release_under_a_published_id_is_refused(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    other = build_release(tmp_path / "other", release_id=name, seed=1)
    with pytest.raises(ReleaseError, match="another release is already published as"):
        store.publish(other)


@pytest.mark.parametrize("remove", [True, False])
def test_release_that_differs_from_its_manifest_is_not_published(
    store: ReleaseStore, name: str, tmp_path: Path, remove: bool
) -> None:
    folder = build_release(tmp_path, release_id=name)
    if remove:
        (folder / layout.VIDEO_IDS).unlink()
    else:
        (folder / layout.VIDEO_IDS).write_text("[]")
    with pytest.raises(ReleaseError, match=r"videos/ids\.json is"):
        store.publish(folder)
    with pytest.raises(NotInStoreError):
        store.manifest(name)


def test_bucket_is_made_by_the_first_publish(s3: S3Settings, name: str, tmp_path: Path) -> None:
    store = ReleaseStore(s3.model_copy(update={"bucket": "made-by-publish"}))
    assert store.list() == ()
    assert store.channels() == {}
    assert store.read_channel("production") is None
    with pytest.raises(NotInStoreError, match="has no bucket 'made-by-publish'; publish"):
        store.manifest(name)
    store.publish(build_release(tmp_path, release_id=name))
    assert [manifest.release_id for manifest in store.list()] == [name]


def test_channel_moves_from_release_to_release(
    store: ReleaseStore, publish: Publish, name: str
) -> None:
    publish(f"{name}-a")
    publish(f"{name}-b")
    assert store.read_channel(name) is None
    store.set_channel(name, f"{name}-a", None, updated_by="ada")
    channel = store.read_channel(name)
    assert channel is not None
    assert (channel.release_id, channel.pointer.updated_by) == (f"{name}-a", "ada")
    store.set_channel(name, f"{name}-b", channel)
    assert store.channels()[name].release_id == f"{name}-b"


def test_stale_view_of_a_channel_changes_nothing(
    store: ReleaseStore, publish: Publish, name: str
) -> None:
    publish(f"{name}-a")
    publish(f"{name}-b")
    store.set_channel(name, f"{name}-a", None)
    seen = store.read_channel(name)
    store.set_channel(name, f"{name}-b", seen)
    for stale in (seen, None):
        with pytest.raises(ChannelChangedError, match="changed by somebody else"):
            store.set_channel(name, f"{name}-a", stale)
    assert store.channels()[name].release_id == f"{name}-b"


def test_one_of_many_racing_writers_wins(store: ReleaseStore, publish: Publish, name: str) -> None:
    publish(name)
    store.set_channel(name, name, None)
    seen = store.read_channel(name)

    def race(writer: int) -> bool:
        try:
            store.set_channel(name, name, seen, updated_by=str(writer))
        except ChannelChangedError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(race, range(8)))
    assert sum(won) == 1
    channel = store.read_channel(name)
    assert channel is not None
    assert channel.pointer.updated_by == str(won.index(True))


def test_channel_can_only_name_a_published_release(store: ReleaseStore, name: str) -> None:
    with pytest.raises(NotInStoreError, match="isn't in bucket"):
        store.set_channel(name, "never-published", None)
    assert store.read_channel(name) is None


def test_object_that_is_no_channel_is_refused(
    store: ReleaseStore, s3: S3Settings, name: str
) -> None:
    client_of(s3).put_object(s3.bucket, f"channels/{name}.json", BytesIO(b"{}"), 2)
    with pytest.raises(StoreError, match="isn't a channel; set it again"):
        store.read_channel(name)
    client_of(s3).remove_object(s3.bucket, f"channels/{name}.json")


@pytest.mark.parametrize("unfit", ["../up", "a/b", "", "x" * 200, ".hidden"])
def test_names_that_could_leave_their_folder_are_refused(store: ReleaseStore, unfit: str) -> None:
    with pytest.raises(VireoError, match="can't be a release id"):
        store.manifest(unfit)
    with pytest.raises(VireoError, match="can't be a channel"):
        store.read_channel(unfit)


def test_refused_key_is_explained(s3: S3Settings, name: str, tmp_path: Path) -> None:
    for update in ({"secret_key": SecretStr("wrong")}, {"access_key": "nobody"}):
        store = ReleaseStore(s3.model_copy(update=update))
        with pytest.raises(StoreError, match=r"refuses the key .*check VIREO_S3_ACCESS_KEY and"):
            store.publish(build_release(tmp_path, release_id=name))
        with pytest.raises(StoreError, match="refuses the key"):
            store.read_channel("production")


def test_server_that_is_not_there_is_explained(tmp_path: Path) -> None:
    store = ReleaseStore(unreachable_s3())
    message = r"S3 at 127\.0\.0\.1:1 can't be reached .*; start it, or set VIREO_S3_ENDPOINT"
    with pytest.raises(StoreUnavailableError, match=message):
        store.read_channel("production")
    with pytest.raises(StoreUnavailableError, match=message):
        store.publish(build_release(tmp_path))


def test_missing_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.delenv(f"VIREO_S3_{variable}", raising=False)
    monkeypatch.setenv("VIREO_S3_ACCESS_KEY", "key")
    with pytest.raises(VireoError, match=r"VIREO_S3_ENDPOINT: .*; VIREO_S3_SECRET_KEY: "):
        S3Settings.load()


def test_settings_travel_through_the_environment(
    s3: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, text in s3.environment().items():
        monkeypatch.setenv(variable, text)
    assert S3Settings.load() == s3
