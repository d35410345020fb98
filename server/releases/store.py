"""Releases in S3: their files are immutable, and the manifest, written last, makes a release."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from vireo.server.releases.bucket import PARALLEL, Bucket, NotInStoreError, StoreUnavailableError
from vireo.server.releases.channels import Change, Channel, ChannelPointer, Channels
from vireo.server.releases.fields import RELEASE_ID, DatasetName, first_problem, parse_json, shown
from vireo.server.releases.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    ReleaseError,
)
from vireo.server.releases.s3 import S3Settings


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

        Files that the store has aren't uploaded again once the release is published; those of an
        interrupted upload are.

        Args:
            folder: a release with its manifest.
            progress: called with the bytes of each file once it is uploaded, from any thread.

        Raises:
            ReleaseError: the folder doesn't match its manifest, or another release has its id.
            StoreError: S3 fails; publish it again.
        """
        manifest = Manifest.read(folder)
        release_id = manifest.release_id
        lacking = self._lacking(manifest)
        missing = [path for path in lacking if not (folder / path).is_file()]
        if missing:
            raise ReleaseError(f"{folder / missing[0]} is missing; the manifest lists it")

        def upload(path: str, entry: FileEntry) -> None:
            if FileEntry.of(folder / path) != entry:
                raise ReleaseError(f"{folder / path} isn't the file that the manifest describes")
            self.bucket.put_file(release_object(release_id, path), folder / path)
            if progress is not None:
                progress(entry.size)

        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(upload, lacking.keys(), lacking.values()))
        place, body = manifest_place(release_id), (folder / MANIFEST_NAME).read_bytes()
        if self.bucket.swap(place, body, None) is None:
            try:
                self._check_same(manifest)
            except NotInStoreError as error:
                raise StoreUnavailableError(
                    f"S3 at {self.settings.endpoint} did not accept the manifest of {release_id}; "
                    "publish it again"
                ) from error
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
        """Return if a release is in the store; raise NotInStoreError if it isn't."""
        self._manifest_body(release_id)

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

        def confirm() -> None:
            self.check_published(change.release_id)

        confirm()
        if change.action == "promote":
            self.manifest(change.release_id)
        # A removal may have begun meanwhile, see `vireo.server.releases.garbage`.
        return self.channels.set(name, change, expected, confirm)

    def _manifest_body(self, release_id: str) -> bytes:
        check_release_id(release_id)
        found = self.bucket.get(manifest_place(release_id))
        if found is None:
            raise NotInStoreError(
                f"release {release_id} isn't in bucket {self.bucket.name}; "
                "`vireo release list` shows what is"
            )
        return found[0]

    def _lacking(self, manifest: Manifest) -> dict[str, FileEntry]:
        """Return the files to upload; raise ReleaseError if another release has the id."""
        self.bucket.make()
        try:
            self._check_same(manifest)
        except NotInStoreError:
            return manifest.files
        prefix = release_object(manifest.release_id, "")
        stored = {each.name: each.size for each in self.bucket.objects(prefix, recursive=True)}
        return {
            path: entry
            for path, entry in manifest.files.items()
            if stored.get(prefix + path) != entry.size
        }

    def _check_same(self, manifest: Manifest) -> None:
        """Raise ReleaseError if another release is published under this one's id.

        Raises:
            NotInStoreError: none is.
        """
        release_id = manifest.release_id
        body = self._manifest_body(release_id)
        if Manifest.parse(body, manifest_place(release_id)) != manifest:
            raise ReleaseError(
                f"another release is already published as {release_id}; "
                "releases don't change: give the new one an id of its own"
            )

    def _listed(self, release_id: str) -> ListedRelease | None:
        """Return a folder of the store as a release; None if it has no manifest."""
        try:
            return ListedRelease(release_id, self.manifest(release_id))
        except NotInStoreError:
            return None
        except ReleaseError as error:
            # One unfit release doesn't hide the others.
            return ListedRelease(release_id, None, str(error))


def manifest_place(release_id: str) -> str:
    """Return the name of the object that makes a release: written last, and removed first."""
    return release_object(release_id, MANIFEST_NAME)


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
