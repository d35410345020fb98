import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import pytest
from pydantic import SecretStr

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.releases import build_release
from tests.builders.s3 import client_of, unreachable_s3
from vireo.server.errors import VireoError
from vireo.server.releases import layout
from vireo.server.releases.bucket import (
    REQUESTS,
    Bucket,
    NotInStoreError,
    StoreError,
    StoreUnavailableError,
)
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest, ReleaseError
from vireo.server.releases.s3 import BackupSettings, S3Settings
from vireo.server.releases.store import ReleaseStore

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
        rest = b"".join(store.read(name, path, offset=5))
        assert rest == (folder / path).read_bytes()[5:]
        assert not b"".join(store.read(name, path, offset=manifest.files[path].size))
    assert manifest in [each.manifest for each in store.list()]


def test_publishing_the_same_release_again_uploads_only_what_is_missing(
    store: ReleaseStore, publish: Publish, name: str
) -> None:
    folder = publish(name)
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


def test_an_invalid_release_is_listed_with_its_problem_and_hides_no_other(
    store: ReleaseStore, s3: S3Settings, publish: Publish, name: str
) -> None:
    publish(f"{name}-a")
    publish(f"{name}-b")
    place = f"releases/{name}-a/{MANIFEST_NAME}"
    client_of(s3).put_object(s3.bucket, place, BytesIO(b"{}"), 2)
    listed = {each.release_id: each for each in store.list()}
    assert listed[f"{name}-a"].manifest is None
    assert "format_version is None" in listed[f"{name}-a"].problem
    assert listed[f"{name}-b"].manifest is not None
    client_of(s3).remove_object(s3.bucket, place)


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


def test_each_use_of_s3_is_counted_by_its_outcome(s3: S3Settings, name: str) -> None:
    def counts() -> dict[str, float]:
        outcomes = "ok", "refused", "unavailable", "missing"
        return {each: REQUESTS.labels(each)._value.get() for each in outcomes}

    def more(store: ReleaseStore) -> dict[str, float]:
        before = counts()
        with suppress(StoreError):
            store.read_channel(name)
        return {
            each: count - before[each] for each, count in counts().items() if count - before[each]
        }

    assert more(ReleaseStore(s3)) == {"ok": 1}
    assert more(ReleaseStore(s3.model_copy(update={"access_key": "nobody"}))) == {"refused": 1}
    assert more(ReleaseStore(s3.model_copy(update={"bucket": "nowhere"}))) == {"missing": 1}
    assert more(ReleaseStore(unreachable_s3())) == {"unavailable": 1}


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


def test_keys_of_the_pods_role_are_used_and_replaced_before_they_expire(
    s3: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key.get_secret_value()}
    issued: list[str] = []

    class Role(BaseHTTPRequestHandler):
        """Gives a role's keys as ECS and EKS do."""

        def do_GET(self) -> None:
            expires = datetime.now(UTC) + timedelta(hours=len(issued))
            issued.append(keys["AccessKeyId"])
            self.send_response(200)
            self.end_headers()
            given = {**keys, "Token": "", "Expiration": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
            self.wfile.write(json.dumps(given).encode())

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    monkeypatch.setenv("VIREO_S3_WORKLOAD_IDENTITY", "true")
    monkeypatch.setenv("VIREO_S3_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("VIREO_S3_BUCKET", s3.bucket)
    with ThreadingHTTPServer(("127.0.0.1", 0), Role) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/keys"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        store = ReleaseStore(S3Settings.load())
        for _ in range(3):  # the first keys have expired already, and the second have not
            store.list()
        server.shutdown()
    assert len(issued) == 2
    with pytest.raises(StoreUnavailableError, match="the pod's role gives no keys for S3"):
        ReleaseStore(S3Settings.load()).list()
    backups = BackupSettings(endpoint=s3.endpoint, workload_identity=True)
    with pytest.raises(StoreUnavailableError, match="unset VIREO_BACKUP_S3_WORKLOAD_IDENTITY"):
        Bucket(backups).exists()
    monkeypatch.setenv("VIREO_BACKUP_S3_ENDPOINT", s3.endpoint)
    with pytest.raises(VireoError, match="set VIREO_BACKUP_S3_WORKLOAD_IDENTITY=true"):
        BackupSettings.load()
