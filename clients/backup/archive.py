"""The bucket of backups: a backup is a manifest, written last, of objects named by their SHA-256.

So a backup that was interrupted is none, and what several have in common is stored once.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict, ValidationError
from vireo.v1.log_pb2 import RecordedEvents

from server.errors import VireoError
from server.event_log.position import StoredPosition
from server.releases.bucket import Bucket
from server.releases.fields import FilePath, first_problem
from server.releases.manifest import FileEntry
from server.releases.s3 import BackupSettings

_UNFINISHED = timedelta(days=1)
"""Age up to which an object that no backup has may be of one that is being made."""
_MAX_MANIFEST_BYTES = 64 << 20


class Manifest(BaseModel):
    """A complete backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    began: datetime
    """All that was acknowledged before is in it."""
    build: str
    """Version that made it."""
    partitions: int
    """Number of partitions of the log."""
    files: dict[FilePath, FileEntry]
    """Files below `home`, `rules`, objects of the release bucket below `bucket`, parts of the log's
    streams, and hides by data set; each in the order in which they are restored."""
    positions: dict[str, StoredPosition]
    """Position in each stream up to which it has the messages."""
    erased: frozenset[str]
    """Tombstones of viewers who were erased from everything before it began."""


class Tombstone(BaseModel):
    """That a viewer was erased; it outlives every backup."""

    viewer: str
    at: int
    """When that was recorded in the log, Unix nanoseconds."""

    @property
    def name(self) -> str:
        """Name of its object: the same whoever writes it."""
        return f"erased/{self.at:020d}-{hashlib.sha256(self.viewer.encode()).hexdigest()[:32]}"

    @staticmethod
    def of(recorded: bytes) -> list[Tombstone]:
        """Return those of a message of stream EVENTS."""
        try:
            message = RecordedEvents.FromString(recorded)
        except DecodeError:  # consumers set it aside
            return []
        at = message.received_at.ToNanoseconds()
        return [Tombstone(viewer=viewer, at=at) for viewer in message.erased]

    def write(self, bucket: Bucket) -> None:
        """Store it; do nothing if it is there."""
        bucket.swap(self.name, self.model_dump_json().encode(), None)


class Archive:
    """The backups of one bucket."""

    def __init__(self, settings: BackupSettings, scratch: Path) -> None:
        """Start with an empty folder for files on their way; no request is made yet."""
        self.bucket, self.scratch = Bucket(settings), scratch
        self.uploaded = 0
        """Bytes that were new to the bucket."""

    @cached_property
    def stored(self) -> set[str]:
        """SHA-256 of all objects."""
        return {each.name.removeprefix("objects/") for each in self.bucket.objects("objects/")}

    def put(self, path: Path) -> FileEntry:
        """Store a file's content, unless it is there."""
        found = FileEntry.of(path)
        if found.sha256 not in self.stored:
            self.bucket.put_file(f"objects/{found.sha256}", path)
            self.stored.add(found.sha256)
            self.uploaded += found.size
        return found

    def fetch(self, stored: FileEntry, path: Path) -> Path:
        """Write an object to a file that only its owner may read, and return its path.

        Raises:
            VireoError: it isn't what was stored.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        with path.open("wb") as file:
            file.writelines(self.bucket.read(f"objects/{stored.sha256}"))
        if FileEntry.of(path) != stored:
            raise VireoError(
                f"objects/{stored.sha256} in bucket {self.bucket.name} isn't what was stored "
                "there; restore an earlier backup"
            )
        return path

    def names(self) -> list[str]:
        """Return the complete backups, oldest first."""
        found = self.bucket.objects("backups/") if self.bucket.exists() else []
        return sorted(Path(each.name).stem for each in found)

    def manifest(self, name: str) -> Manifest | None:
        """Return a backup; None if there is none of that name."""
        found = self.bucket.get(_manifest(name), _MAX_MANIFEST_BYTES)
        try:
            return Manifest.model_validate_json(found[0]) if found else None
        except ValidationError as error:
            raise VireoError(
                f"backup {name} can't be read: {first_problem(error)}; use the build that made it"
            ) from error

    def latest(self) -> Manifest | None:
        """Return the last complete backup; None if there is none."""
        found = map(self.manifest, reversed(self.names()))
        return next((each for each in found if each is not None), None)

    def finish(self, manifest: Manifest) -> None:
        """Complete a backup; raise VireoError if another process interfered."""
        self.__dict__.pop("stored", None)  # as it is now
        body = manifest.model_dump_json().encode()
        complete = {each.sha256 for each in manifest.files.values()} <= self.stored
        if not complete or self.bucket.swap(_manifest(manifest.name), body, None) is None:
            raise VireoError(
                "another vireo backup runs at the same time; repeat this once it ended"
            )

    def prune(self, keep: int) -> int:
        """Remove all but the last backups and what only they have; return how many that were."""
        removed = self.names()[:-keep]
        for name in removed:
            self.bucket.remove(_manifest(name))
        left = filter(None, map(self.manifest, self.names()))
        needed = {f"objects/{each.sha256}" for one in left for each in one.files.values()}
        for found in self.bucket.objects("objects/"):
            old = datetime.now(UTC) - found.modified > _UNFINISHED
            if old and found.name not in needed:
                self.bucket.remove(found.name)
        return len(removed)

    def tombstones(self) -> dict[str, Tombstone]:
        """Return those of all viewers who were ever erased, by name."""
        names = [each.name for each in self.bucket.objects("erased/")]
        found = ((name, self.bucket.get(name)) for name in names)
        return {n: Tombstone.model_validate_json(each[0]) for n, each in found if each is not None}


def _manifest(name: str) -> str:
    return f"backups/{name}.json"
