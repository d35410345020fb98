"""The bucket of backups: a backup is a manifest, written last, of objects named by their SHA-256.

So a backup that was interrupted is none, and what several have in common is stored once.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vireo.server.errors import VireoError
from vireo.server.event_log.log import StoredPosition
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.manifest import FileEntry, FilePath, first_problem
from vireo.server.releases.s3 import BackupSettings

_UNFINISHED = timedelta(days=1)
"""Age up to which an object that no backup has may be of one that is being made."""
_MAX_MANIFEST_BYTES = 64 << 20
ERASED = "erased"


class Manifest(BaseModel):
    """A complete backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    began: datetime
    """All that was acknowledged before is in it."""
    build: str
    """Version that made it."""
    files: dict[FilePath, FileEntry]
    """Files below `home`, objects of the release bucket below `bucket`, snapshots of the log's
    streams below `log`, `hides` by data set, and as ERASED the tombstones of viewers who were
    erased from everything before it began; each in the order in which it is restored."""
    position: StoredPosition
    """Position in the events up to which those who were erased have tombstones."""


def store_tombstone(bucket: Bucket, viewer: str, at: int) -> None:
    """Store the tombstone of a viewer who was erased at a time, Unix nanoseconds.

    It is an object's name, and outlives every backup.
    """
    name = urlsafe_b64encode(viewer.encode()).decode()
    bucket.swap(f"erased/{at:020d}-{name}", viewer.encode(), None)


def parse_tombstone(tombstone: str) -> tuple[str, int]:
    """Return the viewer of a tombstone, and when they were erased, Unix nanoseconds."""
    at, name = tombstone.removeprefix("erased/").split("-", 1)
    return urlsafe_b64decode(name).decode(), int(at)


class Archive:
    """The backups of one bucket."""

    def __init__(self, settings: BackupSettings, scratch: Path) -> None:
        """Start with an empty folder for files on their way; no request is made yet."""
        self.bucket, self.scratch = Bucket(settings), scratch / "file"

    @cached_property
    def _stored(self) -> set[str]:
        return {each.name for each in self.bucket.objects("objects/")}

    def put(self, path: Path) -> FileEntry:
        """Store a file's content, unless it is there; raise VireoError if it changes."""
        at, found = path.stat().st_mtime_ns, FileEntry.of(path)
        if _object(found) not in self._stored:
            self.bucket.put_file(_object(found), path)
            if path.stat().st_mtime_ns != at:
                self.bucket.remove(_object(found))
                raise VireoError(f"{path} was changed while it was read; repeat this")
            self._stored.add(_object(found))
        return found

    def put_object(self, bucket: Bucket, name: str) -> FileEntry:
        """Store an object of another bucket."""
        with self.scratch.open("wb") as file:
            file.writelines(bucket.read(name))
        return self.put(self.scratch)

    def fetch(self, stored: FileEntry, path: Path | None = None) -> Path:
        """Write what was stored to a file for its owner alone, by default `scratch`; return it.

        Raises:
            VireoError: it isn't what was stored.
        """
        path = path or self.scratch
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with open(path, "wb", opener=partial(os.open, mode=0o600)) as file:
            file.writelines(self.bucket.read(_object(stored)))
        if FileEntry.of(path) != stored:
            raise VireoError(
                f"{_object(stored)} in bucket {self.bucket.name} isn't what was stored there; "
                "restore an earlier backup"
            )
        return path

    def names(self) -> list[str]:
        """Return the complete backups, oldest first."""
        found = self.bucket.objects("backups/") if self.bucket.exists() else []
        return sorted(Path(each.name).stem for each in found)

    def manifest(self, name: str) -> Manifest:
        """Return a backup, the last one for an empty name; raise VireoError if there is none."""
        names = self.names()
        name = name or (names or [""])[-1]
        found = self.bucket.get(_manifest(name), _MAX_MANIFEST_BYTES) if name in names else None
        if found is None:
            there = ", ".join(names) or "none"
            raise VireoError(f"bucket {self.bucket.name} has no backup {name}; there are: {there}")
        try:
            return Manifest.model_validate_json(found[0])
        except ValidationError as error:
            raise VireoError(
                f"backup {name} can't be read: {first_problem(error)}; use the build that made it"
            ) from error

    def finish(self, manifest: Manifest) -> None:
        """Complete a backup; raise VireoError if another process interfered."""
        self.__dict__.pop("_stored", None)  # as it is now
        complete = set(map(_object, manifest.files.values())) <= self._stored
        body = manifest.model_dump_json().encode()
        if not complete or self.bucket.swap(_manifest(manifest.name), body, None) is None:
            raise VireoError(
                "another vireo backup runs at the same time; repeat this once it ended"
            )

    def prune(self, keep: int) -> int:
        """Remove all but the last backups and what only they have; return how many that were."""
        removed = self.names()[:-keep]
        for name in removed:
            self.bucket.remove(_manifest(name))
        left = map(self.manifest, self.names())
        needed = {_object(each) for one in left for each in one.files.values()}
        for found in self.bucket.objects("objects/"):
            if datetime.now(UTC) - found.modified > _UNFINISHED and found.name not in needed:
                self.bucket.remove(found.name)
        return len(removed)

    def tombstones(self) -> list[str]:
        """Return those of all viewers who were ever erased, oldest first."""
        return [each.name for each in self.bucket.objects("erased/")]


def _manifest(name: str) -> str:
    return f"backups/{name}.json"


def _object(stored: FileEntry) -> str:
    return f"objects/{stored.sha256}"
