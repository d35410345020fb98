"""The bucket that releases and channels are stored in: objects, read, written and listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import S3Error

from server.releases.s3 import S3Settings
from server.releases.store_errors import explained, refusal

PARALLEL = 4
"""Transfers at a time."""
_CHUNK = 1 << 18
"""Bytes of a transfer that breaking off loses at most."""


@dataclass(frozen=True)
class StoredObject:
    """One object of the bucket, as a listing tells of it."""

    name: str
    size: int
    """Bytes."""
    modified: datetime


class Bucket:
    """The objects of one bucket. Safe to use from several threads.

    Everything raises StoreError, or one of its kinds, where S3 can't do it.
    """

    def __init__(self, settings: S3Settings) -> None:
        """Takes the settings; nothing is asked of the server yet."""
        self.settings = settings
        self.name = settings.bucket
        self._http = urllib3.PoolManager(
            maxsize=2 * PARALLEL,
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

    def exists(self) -> bool:
        """Whether the bucket has been made."""
        with explained(self.settings):
            return bool(self._client.bucket_exists(self.name))

    def make(self) -> None:
        """Makes the bucket where it is missing."""
        if self.exists():
            return
        with explained(self.settings):
            try:
                self._client.make_bucket(self.name)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """An object's content from byte `offset` on, in chunks; nothing where it has no more.

        Raises:
            NotInStoreError: it isn't there.
        """
        with explained(self.settings):
            try:
                response = self._client.get_object(self.name, name, offset=offset)
            except S3Error as error:
                if error.code == "InvalidRange":
                    return
                raise
            try:
                yield from response.stream(_CHUNK)
            finally:
                response.close()
                response.release_conn()

    def get(self, name: str) -> tuple[bytes, str] | None:
        """A small object's content and ETag; None where it isn't there.

        Raises:
            NotInStoreError: the bucket isn't there.
        """
        with explained(self.settings):
            try:
                response = self._client.get_object(self.name, name)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
            try:
                return response.read(), response.headers["ETag"]
            finally:
                response.close()
                response.release_conn()

    def put_file(self, name: str, path: Path) -> None:
        """Writes the file at `path` as an object."""
        with explained(self.settings):
            self._client.fput_object(self.name, name, str(path))

    def put_if(self, name: str, body: bytes, condition: Mapping[str, str]) -> bool:
        """Writes an object if `condition` holds, and tells whether it did.

        The SDK's put takes no conditional headers; a presigned PUT does. It isn't retried:
        a second attempt would find the first one's own change.

        Args:
            name: the object.
            body: its new content.
            condition: `{"If-Match": etag}` or `{"If-None-Match": "*"}`.

        Raises:
            StoreUnavailableError: no answer, or one that leaves open whether it was written.
        """
        with explained(self.settings):
            url = self._client.get_presigned_url(
                "PUT", self.name, name, expires=timedelta(minutes=5)
            )
            response = self._http.request("PUT", url, body=body, headers=condition, retries=False)
        # 404 is what If-Match gives where the object has gone; 409 where two meet.
        if response.status in (404, 409, 412):
            return False
        if response.status != 200:
            raise refusal(self.settings, f"HTTP {response.status}", response.status)
        return True

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below `prefix`, which ends with a slash."""
        with explained(self.settings):
            return [
                str(entry.object_name).removeprefix(prefix).rstrip("/")
                for entry in self._client.list_objects(self.name, prefix)
                if entry.is_dir
            ]

    def objects(self, prefix: str, *, recursive: bool = False) -> list[StoredObject]:
        """The objects below `prefix`, by name; those of its folders too if `recursive`."""
        with explained(self.settings):
            return [
                StoredObject(str(entry.object_name), entry.size or 0, entry.last_modified)
                for entry in self._client.list_objects(self.name, prefix, recursive=recursive)
                if not entry.is_dir and entry.last_modified is not None
            ]

    def remove(self, name: str) -> None:
        """Removes an object; does nothing where it isn't there."""
        with explained(self.settings):
            self._client.remove_object(self.name, name)
