"""Releases and channels in S3: files are immutable, channels change by compare-and-swap."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import S3Error
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.releases.manifest import MANIFEST_NAME, FileEntry, Manifest, ReleaseError
from server.releases.s3 import S3Settings
from server.releases.store_errors import (
    ChannelChangedError,
    NotInStoreError,
    StoreError,
    explained,
    refusal,
)

RELEASE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a release may be called: it is part of object names and paths."""
CHANNEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"

_PARALLEL = 4
_CHUNK = 1 << 18
"""Bytes of a transfer that breaking off loses at most."""


class ChannelPointer(BaseModel):
    """What a channel's object holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release_id: str = Field(pattern=RELEASE_ID)
    updated_at: datetime
    updated_by: str


@dataclass(frozen=True)
class Channel:
    """A channel as it was read; hand it to `set_channel` to change what was read."""

    name: str
    pointer: ChannelPointer
    etag: str

    @property
    def release_id(self) -> str:
        """The release that the channel names."""
        return self.pointer.release_id


class ReleaseStore:
    """The releases and channels of one bucket. Safe to use from several threads."""

    def __init__(self, settings: S3Settings) -> None:
        """Takes the settings; nothing is asked of the server yet."""
        self.settings = settings
        self._bucket = settings.bucket
        self._http = urllib3.PoolManager(
            maxsize=2 * _PARALLEL,
            timeout=urllib3.Timeout(connect=settings.connect_timeout, read=settings.read_timeout),
            retries=urllib3.Retry(
                total=settings.retries,
                connect=0,  # a server that isn't there won't be in a moment either
                backoff_factor=0.2,
                status_forcelist=[500, 502, 503, 504],
                raise_on_status=False,
            ),
        )
        self._client = Minio(
            settings.endpoint,
            access_key=settings.access_key,
            secret_key=settings.secret_key.get_secret_value(),
            secure=settings.secure,
            region=settings.region,
            http_client=self._http,
        )

    def publish(self, folder: Path, progress: Callable[[int], None] | None = None) -> Manifest:
        """Uploads the release in `folder`; the manifest goes last, and makes it a release.

        Publishing the same release again does nothing.

        Args:
            folder: a release with its manifest.
            progress: called with the bytes of each file once it is there, from any thread.

        Raises:
            ReleaseError: the folder doesn't match its manifest, or another release has its id.
            StoreError: S3 can't take it.
        """
        manifest = Manifest.read(folder)
        check_release_id(manifest.release_id)
        if self._is_published(manifest):
            return manifest
        with explained(self.settings):
            self._make_bucket()

        def upload(path: str, entry: FileEntry) -> None:
            if FileEntry.of(folder / path) != entry:
                raise ReleaseError(f"{folder / path} isn't the file that the manifest describes")
            with explained(self.settings):
                self._client.fput_object(
                    self._bucket, _object(manifest.release_id, path), str(folder / path)
                )
            if progress is not None:
                progress(entry.size)

        missing = [path for path in manifest.files if not (folder / path).is_file()]
        if missing:
            raise ReleaseError(f"{folder / missing[0]} is missing; the manifest lists it")
        with ThreadPoolExecutor(_PARALLEL) as threads:
            list(threads.map(upload, manifest.files.keys(), manifest.files.values()))
        body = (folder / MANIFEST_NAME).read_bytes()
        if not self._put(_object(manifest.release_id, MANIFEST_NAME), body, {"If-None-Match": "*"}):
            self._is_published(manifest)
        return manifest

    def list(self) -> tuple[Manifest, ...]:
        """Every published release, newest first."""
        with explained(self.settings):
            if not self._client.bucket_exists(self._bucket):
                return ()
            prefixes = [
                str(entry.object_name).split("/")[1]
                for entry in self._client.list_objects(self._bucket, "releases/")
                if entry.is_dir
            ]
        with ThreadPoolExecutor(_PARALLEL) as threads:
            found = tuple(threads.map(self._manifest_or_none, prefixes))
        published = [manifest for manifest in found if manifest is not None]
        return tuple(sorted(published, key=lambda m: (m.created_at, m.release_id), reverse=True))

    def manifest(self, release_id: str) -> Manifest:
        """The manifest of a release.

        Raises:
            NotInStoreError: there is no such release.
            ReleaseError: its manifest is unfit.
        """
        check_release_id(release_id)
        name = _object(release_id, MANIFEST_NAME)
        body = b"".join(self._read(name))
        manifest = Manifest.parse(body, name)
        if manifest.release_id != release_id:
            raise ReleaseError(f"{name}: is the manifest of release {manifest.release_id!r}")
        return manifest

    def read(self, release_id: str, path: str, offset: int = 0) -> Iterator[bytes]:
        """The content of one file of a release, in chunks, from byte `offset` on.

        Nothing comes where the file has no more than `offset` bytes.

        Raises:
            NotInStoreError: it isn't there.
        """
        check_release_id(release_id)
        return self._read(_object(release_id, path), offset)

    def read_channel(self, name: str) -> Channel | None:
        """The channel, or None where it was never set."""
        with explained(self.settings):
            try:
                response = self._client.get_object(self._bucket, _channel_object(name))
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchBucket"):
                    return None
                raise
            try:
                body, etag = response.read(), response.headers["ETag"]
            finally:
                response.close()
                response.release_conn()
        try:
            return Channel(name, ChannelPointer.model_validate_json(body), etag)
        except ValidationError as error:
            raise StoreError(
                f"{_channel_object(name)} in bucket {self._bucket} isn't a channel; "
                "set it again with `vireo release promote`"
            ) from error

    def channels(self) -> dict[str, Channel]:
        """Every channel by name."""
        with explained(self.settings):
            if not self._client.bucket_exists(self._bucket):
                return {}
            objects = self._client.list_objects(self._bucket, "channels/")
            names = [Path(str(entry.object_name)).stem for entry in objects]
        return {name: found for name in names if (found := self.read_channel(name)) is not None}

    def set_channel(
        self,
        name: str,
        release_id: str,
        expected: Channel | None,
        updated_by: str | None = None,
    ) -> None:
        """Points a channel at a published release, if nobody changed it since it was read.

        Args:
            name: the channel.
            release_id: the release that it shall name.
            expected: the channel as `read_channel` gave it; None where it was never set.
            updated_by: who does it; by default this user on this machine.

        Raises:
            NotInStoreError: the release isn't published.
            ChannelChangedError: the channel isn't as expected; read it and decide again.
        """
        self.manifest(release_id)
        user = updated_by or f"{os.environ.get('USER', os.getuid())}@{socket.gethostname()}"
        pointer = ChannelPointer(
            release_id=release_id, updated_at=datetime.now(UTC), updated_by=user
        )
        condition = {"If-Match": expected.etag} if expected else {"If-None-Match": "*"}
        if not self._put(_channel_object(name), pointer.model_dump_json().encode(), condition):
            raise ChannelChangedError(
                f"channel {name} was changed by somebody else in the meantime; "
                "look at it with `vireo release list` and run the command again"
            )

    def _is_published(self, manifest: Manifest) -> bool:
        """Whether it is; raises ReleaseError where another release has its id."""
        there = self._manifest_or_none(manifest.release_id)
        if there is not None and there != manifest:
            raise ReleaseError(
                f"another release is already published as {manifest.release_id}; "
                "releases don't change: give the new one an id of its own"
            )
        return there is not None

    def _manifest_or_none(self, release_id: str) -> Manifest | None:
        try:
            return self.manifest(release_id)
        except NotInStoreError:
            return None

    def _make_bucket(self) -> None:
        if self._client.bucket_exists(self._bucket):
            return
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        with explained(self.settings):
            try:
                response = self._client.get_object(self._bucket, name, offset=offset)
            except S3Error as error:
                if error.code == "InvalidRange":
                    return
                raise
            try:
                yield from response.stream(_CHUNK)
            finally:
                response.close()
                response.release_conn()

    def _put(self, name: str, body: bytes, condition: dict[str, str]) -> bool:
        """Writes an object if `condition` holds, and tells whether it did.

        The SDK's put takes no conditional headers; a presigned PUT does. It isn't retried:
        a second attempt would find the first one's own change.
        """
        with explained(self.settings):
            url = self._client.get_presigned_url(
                "PUT", self._bucket, name, expires=timedelta(minutes=5)
            )
            response = self._http.request("PUT", url, body=body, headers=condition, retries=False)
        # 404 is what If-Match gives where the object has gone; 409 where two meet.
        if response.status in (404, 409, 412):
            return False
        if response.status != 200:
            raise refusal(self.settings, f"HTTP {response.status}", response.status in (401, 403))
        return True


def check_release_id(release_id: str) -> None:
    """Raises ReleaseError unless `release_id` is fit to be part of a path."""
    if not re.fullmatch(RELEASE_ID, release_id):
        raise ReleaseError(
            f"{release_id!r} can't be a release id; use letters, digits, dots, dashes and "
            "underscores, 128 at most"
        )


def _object(release_id: str, path: str) -> str:
    return f"releases/{release_id}/{path}"


def _channel_object(name: str) -> str:
    if not re.fullmatch(CHANNEL_NAME, name):
        raise StoreError(
            f"{name!r} can't be a channel; use lower-case letters, digits, dashes and underscores"
        )
    return f"channels/{name}.json"
