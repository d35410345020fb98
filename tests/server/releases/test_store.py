import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.builders.answering import Request, answering, reply
from tests.builders.faulty_s3 import faulty_s3
from tests.builders.releases import build_release
from vireo.server.errors import VireoError
from vireo.server.releases import layout
from vireo.server.releases.bucket import (
    REQUESTS,
    Bucket,
    NotInStoreError,
    StoreError,
    StoreUnavailableError,
)
from vireo.server.releases.manifest import Manifest, ReleaseError
from vireo.server.releases.s3 import BackupSettings, S3Settings
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration


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
        rest = b"".join(store.read(name, path, offset=5))
        assert rest == (folder / path).read_bytes()[5:]
        assert not b"".join(store.read(name, path, offset=manifest.files[path].size))
    assert manifest in [each.manifest for each in store.list()]


def test_publishing_the_same_release_again_uploads_only_what_is_missing(
    store: ReleaseStore, name: str, tmp_path: Path
) -> None:
    folder = build_release(tmp_path, release_id=name)
    store.publish(folder)
    uploaded: list[int] = []
    store.publish(folder, uploaded.append)
    assert uploaded == []
    store.bucket.remove(f"releases/{name}/{layout.RANKER}")
    store.publish(folder, uploaded.append)
    assert uploaded == [(folder / layout.RANKER).stat().st_size]


def test_a_failed_upload_of_the_manifest_is_no_success(
    store: ReleaseStore, s3: S3Settings, name: str, tmp_path: Path
) -> None:
    folder = build_release(tmp_path, release_id=name)
    with faulty_s3(s3) as proxy:
        proxy.fault, proxy.only = "meets", f"PUT /{s3.bucket}/releases/{name}/manifest".encode()
        with pytest.raises(StoreUnavailableError, match="publish it again"):
            ReleaseStore(proxy.settings).publish(folder)
    with pytest.raises(NotInStoreError):
        store.manifest(name)
    store.publish(folder)


def test_other_release_under_a_published_id_is_refused(
    store: ReleaseStore, name: str, tmp_path: Path
) -> None:
    store.publish(build_release(tmp_path / "first", release_id=name))
    other = build_release(tmp_path / "other", release_id=name, seed=1)
    with pytest.raises(ReleaseError, match="another release is already published as"):
        store.publish(other)


def test_release_that_differs_from_its_manifest_is_not_published(
    store: ReleaseStore, name: str, tmp_path: Path
) -> None:
    folder = build_release(tmp_path, release_id=name)
    ids = folder / layout.VIDEO_IDS
    for damage in (lambda: ids.write_text("[]"), ids.unlink):
        damage()
        with pytest.raises(ReleaseError, match=r"videos/ids\.bin is"):
            store.publish(folder)
        with pytest.raises(NotInStoreError):
            store.manifest(name)


def test_bucket_is_made_by_the_first_publish(s3: S3Settings, name: str, tmp_path: Path) -> None:
    store = ReleaseStore(s3.model_copy(update={"bucket": "made-by-publish"}))
    assert store.list() == ()
    assert store.channels.all() == {}
    assert store.channels.history("production") == ()
    for ask in (store.manifest, store.read_channel):
        with pytest.raises(NotInStoreError, match="has no bucket 'made-by-publish'; publish"):
            ask(name)
    store.publish(build_release(tmp_path, release_id=name))
    assert [each.release_id for each in store.list()] == [name]
    assert store.read_channel(name) is None


@pytest.mark.parametrize("unfit", ["../up", "a/b", "", "x" * 200, ".hidden"])
def test_names_that_could_leave_their_folder_are_refused(store: ReleaseStore, unfit: str) -> None:
    with pytest.raises(VireoError, match="can't be a release id"):
        store.manifest(unfit)
    with pytest.raises(VireoError, match="can't be a channel"):
        store.read_channel(unfit)


@pytest.mark.parametrize(
    ("changes", "outcome", "message"),
    [
        ({}, "ok", ""),
        ({"access_key": "nobody"}, "refused", "refuses the key .*check VIREO_S3_ACCESS_KEY and"),
        ({"secret_key": SecretStr("wrong")}, "refused", "refuses the key"),
        ({"bucket": "nowhere"}, "missing", "has no bucket 'nowhere'"),
        (
            {"endpoint": "127.0.0.1:1"},
            "unavailable",
            r"S3 at 127\.0\.0\.1:1 can't be reached .*; start it, or set VIREO_S3_ENDPOINT",
        ),
    ],
)
def test_each_failure_of_s3_is_explained_and_each_use_counted_by_its_outcome(
    s3: S3Settings, name: str, changes: dict[str, Any], outcome: str, message: str
) -> None:
    store = ReleaseStore(s3.model_copy(update=changes).with_patience(retries=0))
    before = REQUESTS.labels(outcome)._value.get()
    with pytest.raises(StoreError, match=message) if message else nullcontext():
        store.read_channel(name)
    assert REQUESTS.labels(outcome)._value.get() == before + 1


def test_missing_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.delenv(f"VIREO_S3_{variable}", raising=False)
    monkeypatch.setenv("VIREO_S3_ACCESS_KEY", "key")
    with pytest.raises(VireoError, match=r"VIREO_S3_ENDPOINT: .*; VIREO_S3_SECRET_KEY: "):
        S3Settings.load()


def test_keys_of_the_pods_role_are_used_and_replaced_before_they_expire(
    s3: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key.get_secret_value()}
    issued: list[str] = []

    def give(request: Request, _: bytes) -> None:
        """Give a role's keys as ECS and EKS do."""
        expires = datetime.now(UTC) + timedelta(hours=len(issued))
        issued.append(keys["AccessKeyId"])
        given = {**keys, "Token": "", "Expiration": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
        reply(request, 200, json.dumps(given).encode())

    monkeypatch.setenv("VIREO_S3_WORKLOAD_IDENTITY", "true")
    monkeypatch.setenv("VIREO_S3_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("VIREO_S3_BUCKET", s3.bucket)
    with answering(give) as port:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/keys")
        store = ReleaseStore(S3Settings.load())
        for _ in range(3):  # the first keys have expired already, and the second have not
            store.list()
    assert len(issued) == 2
    with pytest.raises(StoreUnavailableError, match="the pod's role gives no keys for S3"):
        ReleaseStore(S3Settings.load()).list()
    backups = BackupSettings(endpoint=s3.endpoint, workload_identity=True)
    with pytest.raises(StoreUnavailableError, match="unset VIREO_BACKUP_S3_WORKLOAD_IDENTITY"):
        Bucket(backups).exists()
    monkeypatch.setenv("VIREO_BACKUP_S3_ENDPOINT", s3.endpoint)
    with pytest.raises(VireoError, match="set VIREO_BACKUP_S3_WORKLOAD_IDENTITY=true"):
        BackupSettings.load()
