"""Releases in S3: their files are immutable, and the manifest, written last, makes a release.

A release is kept if a channel needs it or if it was written recently; age keeps removals and
uploads apart. A promotion of an old release may meet its removal: each first writes (the one
removes the manifest, the other names the release), then reads what the other writes. So at least
one finds out: the removal puts the manifest back, or the promotion sets the channel back. Files
are removed after that.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from vireo.server.releases.bucket import (
    PARALLEL,
    Bucket,
    NotInStoreError,
    StoredObject,
    StoreError,
    StoreUnavailableError,
)
from vireo.server.releases.channels import HISTORY, Change, Channel, ChannelPointer, Channels
from vireo.server.releases.manifest import (
    CHANNEL_NAME,
    MANIFEST_NAME,
    RELEASE_ID,
    DatasetName,
    FileEntry,
    Manifest,
    ReleaseError,
    first_problem,
    parse_json,
    shown,
)
from vireo.server.releases.s3 import S3Settings


class _Origin(BaseModel):
    """The part of a manifest that every format has."""

    dataset: DatasetName


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
        release_id, prefix = manifest.release_id, release_object(manifest.release_id, "")
        self.bucket.make()
        stored: dict[str, int] = {}
        if self._is_published(manifest):
            stored = {each.name: each.size for each in self.bucket.objects(prefix, recursive=True)}

        def upload(path: str) -> None:
            file, entry = folder / path, manifest.files[path]
            if stored.get(prefix + path) == entry.size:
                return
            if not file.is_file():
                raise ReleaseError(f"{file} is missing; the manifest lists it")
            if FileEntry.of(file) != entry:
                raise ReleaseError(f"{file} isn't the file that the manifest describes")
            self.bucket.put_file(prefix + path, file)
            if progress is not None:
                progress(entry.size)

        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(upload, manifest.files))
        body = (folder / MANIFEST_NAME).read_bytes()
        written = self.bucket.swap(prefix + MANIFEST_NAME, body, None)
        if written is None and not self._is_published(manifest):
            raise StoreUnavailableError(
                f"S3 at {self.settings.endpoint} did not accept the manifest of {release_id}; "
                "publish it again"
            )
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
            ReleaseError: its manifest is unfit, or another release's.
        """
        body, place = self._manifest_body(release_id), manifest_place(release_id)
        manifest = Manifest.parse(body, place)
        if manifest.release_id != release_id:
            raise ReleaseError(f"{place}: is the manifest of release {manifest.release_id!r}")
        return manifest

    def dataset(self, release_id: str) -> str:
        """Return the data set of a release, also of one that this build can't serve.

        Raises:
            NotInStoreError: there is no such release.
            ReleaseError: what is there isn't a manifest.
        """
        body, place = self._manifest_body(release_id), manifest_place(release_id)
        try:
            return _Origin.model_validate(parse_json(body)).dataset
        except ValidationError as error:
            raise ReleaseError(f"{place}: manifest field {first_problem(error)}") from error
        except ValueError as error:
            raise ReleaseError(f"{place}: isn't a manifest: {shown(str(error))}") from error

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
        confirm = partial(self.check_published, change.release_id)
        confirm()
        if change.action == "promote":
            self.manifest(change.release_id)
        # A removal may have begun meanwhile.
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

    def _is_published(self, manifest: Manifest) -> bool:
        """Return whether a release is published; raise ReleaseError if another has its id."""
        place = manifest_place(manifest.release_id)
        found = self.bucket.get(place)
        if found is not None and Manifest.parse(found[0], place) != manifest:
            raise ReleaseError(
                f"another release is already published as {manifest.release_id}; "
                "releases don't change: give the new one an id of its own"
            )
        return found is not None

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


def check_release_id(release_id: str) -> None:
    """Raise ReleaseError unless `release_id` is fit to be part of a path."""
    if not re.fullmatch(RELEASE_ID, release_id):
        raise ReleaseError(
            f"{release_id!r} can't be a release id; use letters, digits, dots, dashes and "
            "underscores, 128 at most"
        )


@dataclass(frozen=True)
class Garbage:
    """A release, or what is left of one, that is no longer needed."""

    release_id: str
    manifest: tuple[bytes, str] | None
    """Content and ETag of its manifest; the release is removed only if it is unchanged."""
    size: int
    """Bytes."""
    newest: datetime
    """When its latest file was written."""

    @property
    def kind(self) -> Literal["release", "leftover"]:
        """A leftover has no manifest: it was never completed, or its removal was interrupted."""
        return "release" if self.manifest else "leftover"


@dataclass(frozen=True)
class Plan:
    """What a collection would do."""

    kept: Mapping[str, str]
    """Why each release is kept."""
    garbage: tuple[Garbage, ...]


def plan_collection(store: ReleaseStore, history_kept: int, grace: timedelta) -> Plan:
    """Find what is no longer needed.

    Args:
        store: where the releases are.
        history_kept: number of a channel's latest changes whose releases are kept.
        grace: minimum age of what is collected: younger uploads may yet be finished or promoted.
    """
    if not store.bucket.exists():
        return Plan({}, ())
    needed = needed_releases(store, history_kept)
    by_release: dict[str, list[StoredObject]] = defaultdict(list)
    for entry in store.bucket.objects("releases/", recursive=True):
        parts = entry.name.split("/")
        if len(parts) > 2 and re.fullmatch(RELEASE_ID, parts[1]):
            by_release[parts[1]].append(entry)
    kept, garbage = {}, []
    now = datetime.now(UTC)
    for release_id, objects in sorted(by_release.items()):
        newest = max(entry.modified for entry in objects)
        recent = "written recently" if now - newest < grace else ""
        if why := needed.get(release_id, recent):
            kept[release_id] = why
            continue
        size = sum(entry.size for entry in objects)
        manifest = store.bucket.get(manifest_place(release_id))
        garbage.append(Garbage(release_id, manifest, size, newest))
    return Plan(kept, tuple(garbage))


def collect(store: ReleaseStore, garbage: Garbage, history_kept: int = 0) -> bool:
    """Remove a release unless it has changed or become needed since; return whether it was removed.

    Args:
        store: the store to remove it from.
        garbage: the release as it was planned.
        history_kept: number of a channel's latest changes whose releases are kept.

    Raises:
        StoreError: S3 fails. What is left isn't a release; a later collection removes it.
    """
    place, manifest = manifest_place(garbage.release_id), garbage.manifest
    if manifest is not None and not store.bucket.remove_if(place, manifest[1]):
        return False
    try:
        needed = garbage.release_id in needed_releases(store, history_kept)
        objects = store.bucket.objects(release_object(garbage.release_id, ""), recursive=True)
    except StoreError:
        with suppress(StoreError):  # the next collection, or publishing it again, heals that
            _put_back(store, place, manifest)
        raise
    # Published again since: files are newer, or the manifest is there again.
    if needed or any(each.name == place or each.modified > garbage.newest for each in objects):
        _put_back(store, place, manifest)
        return False
    for entry in objects:
        store.bucket.remove(entry.name)
    return True


def _put_back(store: ReleaseStore, place: str, manifest: tuple[bytes, str] | None) -> None:
    if manifest is not None:
        store.bucket.swap(place, manifest[0], None)


def needed_releases(store: ReleaseStore, history_kept: int = 0) -> dict[str, str]:
    """Return why a channel needs each release that one needs; the strongest reason counts."""
    reasons: dict[str, str] = {}
    channels = store.channels.all()
    for name, channel in channels.items():
        reasons.setdefault(channel.release_id, f"{name} names it")
    for name, channel in channels.items():
        if channel.pointer.returns_to is not None:
            earlier = store.channels.recorded(name, channel.pointer.returns_to)
            if earlier is not None:
                reasons.setdefault(earlier.release_id, f"{name} would roll back to it")
    # A channel whose object was removed still has its history.
    folders = store.bucket.folders(HISTORY) if history_kept else []
    named = {*channels, *(each for each in folders if re.fullmatch(CHANNEL_NAME, each))}
    for name in named if history_kept else ():
        for record in store.channels.history(name, history_kept):
            reasons.setdefault(record.release_id, f"{name} named it recently")
    return reasons
