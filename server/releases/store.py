"""Releases in S3: their files are immutable, and the manifest, written last, makes a release."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ValidationError

from vireo.server.releases.bucket import PARALLEL, Bucket
from vireo.server.releases.channels import Change, Channel, ChannelPointer, Channels
from vireo.server.releases.fields import RELEASE_ID, DatasetName, first_problem, parse_json, shown
from vireo.server.releases.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    ReleaseError,
)
from vireo.server.releases.markers import (
    ManifestObject,
    Marker,
    manifest_place,
    read_manifest_object,
)
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store_errors import (
    BeingRemovedError,
    NotInStoreError,
    StoreUnavailableError,
)

_DOING = {"uploading": "is being uploaded", "removing": "is being removed by `vireo release gc`"}


class _Origin(BaseModel):
    """The part of a manifest that every format has."""

    dataset: DatasetName


def trained_on(manifest: bytes, source: str) -> str:
    """Return the data set that a release was trained on, whichever build wrote its manifest.

    Raises:
        ReleaseError: it isn't a manifest; the message names the field and `source`.
    """
    try:
        return _Origin.model_validate(parse_json(manifest, MAX_MANIFEST_BYTES)).dataset
    except ValidationError as error:
        raise ReleaseError(f"{source}: manifest field {first_problem(error)}") from error
    except ValueError as error:
        raise ReleaseError(f"{source}: isn't a manifest: {shown(str(error))}") from error


@dataclass(frozen=True)
class ListedRelease:
    """A release as listed."""

    release_id: str
    manifest: Manifest | None
    """None if it is unfit."""
    problem: str = ""
    """Why it is unfit; empty if it isn't."""


class ReleaseStore:
    """The releases and channels of one bucket. Safe to use from several threads."""

    def __init__(self, settings: S3Settings) -> None:
        """Start with `settings`; no request is made yet."""
        self.settings = settings
        self.bucket = Bucket(settings)
        self.channels = Channels(self.bucket)
        """The channels; `change_channel` changes one, and checks the release that it will name."""

    def publish(self, folder: Path, progress: Callable[[int], None] | None = None) -> Manifest:
        """Upload the release in `folder`; the manifest goes last, and completes the release.

        Publishing the same release again does nothing. The files of an interrupted upload are
        uploaded again.

        Args:
            folder: a release with its manifest.
            progress: called with the bytes of each file once it is uploaded, from any thread.

        Raises:
            ReleaseError: the folder doesn't match its manifest, or another release has its id.
            StoreError: S3 fails, or another process publishes or removes the release.
        """
        manifest = Manifest.read(folder)
        release_id = manifest.release_id
        if self._is_published(manifest):
            return manifest
        missing = [path for path in manifest.files if not (folder / path).is_file()]
        if missing:
            raise ReleaseError(f"{folder / missing[0]} is missing; the manifest lists it")
        self.bucket.make()
        body = (folder / MANIFEST_NAME).read_bytes()
        claim = self._claim(release_id, body)

        def upload(path: str, entry: FileEntry) -> None:
            if FileEntry.of(folder / path) != entry:
                raise ReleaseError(f"{folder / path} isn't the file that the manifest describes")
            found = self._found(release_id)
            if found is None or found.etag != claim:
                raise self._meets_another(release_id)
            self.bucket.put_file(release_object(release_id, path), folder / path)
            if progress is not None:
                progress(entry.size)

        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(upload, manifest.files.keys(), manifest.files.values()))
        written = self.bucket.swap(manifest_place(release_id), body, claim)
        if written is None and not self._is_published(manifest):
            raise self._meets_another(release_id)
        return manifest

    def list(self) -> tuple[ListedRelease, ...]:
        """Return every published release, newest first; those with an unfit manifest last."""
        if not self.bucket.exists():
            return ()
        with ThreadPoolExecutor(PARALLEL) as threads:
            found = threads.map(self._listed, self.bucket.folders("releases/"))
            published = [each for each in found if each is not None]

        def newest_last(each: ListedRelease) -> tuple[bool, float, str]:
            created = each.manifest.created_at.timestamp() if each.manifest else 0.0
            return each.manifest is not None, created, each.release_id

        return tuple(sorted(published, key=newest_last, reverse=True))

    def manifest(self, release_id: str) -> Manifest:
        """Return the manifest of a release.

        Raises:
            NotInStoreError: there is no such release.
            ReleaseError: its manifest is unfit.
        """
        return _parsed(release_id, self._manifest_body(release_id))

    def dataset(self, release_id: str) -> str:
        """Return the data set of a release, also of one that this build can't serve.

        Raises:
            NotInStoreError: there is no such release.
            ReleaseError: what is there isn't a manifest.
        """
        return trained_on(self._manifest_body(release_id), manifest_place(release_id))

    def check_published(self, release_id: str) -> None:
        """Return if a release is in the store, complete and not being removed.

        Raises:
            NotInStoreError: it was never published, or is being uploaded or removed.
        """
        found = self._found(release_id)
        if found is not None and found.marker is None:
            return
        why = _DOING[found.marker.marker] if found and found.marker else "isn't there"
        message = (
            f"release {release_id} isn't in bucket {self.bucket.name}: it {why}; "
            "`vireo release list` shows what is"
        )
        if found is not None and found.removal is not None:
            raise BeingRemovedError(message, found.removal.by)
        raise NotInStoreError(message)

    def read(self, release_id: str, path: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the content of one file of a release in chunks, from byte `offset` on.

        Nothing is yielded if the file ends before.

        Raises:
            NotInStoreError: the file isn't there.
        """
        check_release_id(release_id)
        return self.bucket.read(release_object(release_id, path), offset)

    def read_channel(self, name: str) -> Channel | None:
        """Return the channel; None if it was never set.

        Raises:
            NotInStoreError: the bucket isn't there.
        """
        return self.channels.read(name)

    def change_channel(self, name: str, change: Change, expected: Channel | None) -> ChannelPointer:
        """Change a channel to name a published release, unless it has changed since it was read.

        Only a promotion needs a release that this build understands. A channel may name again what
        it named before, whichever build that was for: the pods verify it themselves.

        Args:
            name: the channel.
            change: what it is to name, and why.
            expected: the channel as `read_channel` returned it; None if it was never set.

        Raises:
            NotInStoreError: the release isn't published.
            ReleaseError: what is to be promoted is unfit for this build.
            ChannelChangedError: the channel isn't as expected; read it and decide again.
        """
        self.check_published(change.release_id)
        if change.action == "promote":
            self.manifest(change.release_id)
        check = partial(self.check_published, change.release_id)
        return self.channels.set(name, change, expected, confirm=check)

    def _found(self, release_id: str) -> ManifestObject | None:
        check_release_id(release_id)
        return read_manifest_object(self.bucket, release_id)

    def _manifest_body(self, release_id: str) -> bytes:
        found = self._found(release_id)
        body = found.manifest if found else None
        if body is None:
            raise NotInStoreError(
                f"{manifest_place(release_id)} isn't in bucket {self.bucket.name}; "
                "`vireo release list` shows what is"
            )
        return body

    def _is_published(self, manifest: Manifest) -> bool:
        """Return whether a release is published; raise ReleaseError if another one has its id."""
        try:
            found = self._found(manifest.release_id)
        except NotInStoreError:
            return False  # there is no bucket either
        if found is None or found.marker is not None:
            return False
        if Manifest.parse(found.body, manifest_place(manifest.release_id)) != manifest:
            raise ReleaseError(
                f"another release is already published as {manifest.release_id}; "
                "releases don't change: give the new one an id of its own"
            )
        return True

    def _claim(self, release_id: str, body: bytes) -> str:
        """Claim the place of a manifest to come; return the claim's ETag.

        Raises:
            ReleaseError: another release is being uploaded under this id.
            StoreError: the release is being removed, or another process claims it at the same time.
        """
        digest = hashlib.sha256(body).hexdigest()
        found = self._found(release_id)
        there = found.marker if found else None
        if found is not None and found.removal is not None:
            raise StoreUnavailableError(
                f"release {release_id} is being removed by {found.removal.by}; publish it again "
                "when that is done. If it isn't within an hour: vireo release gc --yes"
            )
        if there is not None and there.digest != digest:
            raise ReleaseError(
                f"another release is being uploaded as {release_id} by {there.by}; give this one "
                "an id of its own. If that one broke off, `vireo release gc --yes` removes what is "
                "left of it from 24 hours later on"
            )
        etag = None
        if found is None or there is not None:
            claim = Marker.uploading(digest).body()
            place = manifest_place(release_id)
            etag = self.bucket.swap(place, claim, found.etag if found else None)
        if etag is None:
            raise self._meets_another(release_id)
        return etag

    def _meets_another(self, release_id: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"S3 at {self.settings.endpoint} did not accept the manifest of {release_id}: another "
            "process publishes or removes this release; publish it again"
        )

    def _listed(self, release_id: str) -> ListedRelease | None:
        """Return a folder of the store as a release; None if it has no manifest."""
        try:
            found = self._found(release_id)
            if found is None or found.manifest is None:
                return None
            if found.marker is not None:
                return ListedRelease(release_id, None, f"it {_DOING[found.marker.marker]}")
            return ListedRelease(release_id, _parsed(release_id, found.body))
        except ReleaseError as error:
            # One unfit release doesn't hide the others.
            return ListedRelease(release_id, None, str(error))


def release_object(release_id: str, path: str) -> str:
    """Return the name of the object that holds a file of a release."""
    return f"releases/{release_id}/{path}"


def _parsed(release_id: str, body: bytes) -> Manifest:
    """Return the manifest of a release; raise ReleaseError if it is unfit or another release's."""
    place = manifest_place(release_id)
    manifest = Manifest.parse(body, place)
    if manifest.release_id != release_id:
        raise ReleaseError(f"{place}: is the manifest of release {manifest.release_id!r}")
    return manifest


def check_release_id(release_id: str) -> None:
    """Raise ReleaseError unless `release_id` is fit to be part of a path."""
    if not re.fullmatch(RELEASE_ID, release_id):
        raise ReleaseError(
            f"{release_id!r} can't be a release id; use letters, digits, dots, dashes and "
            "underscores, 128 at most"
        )
