"""Downloads one file of a release: resumable, and once for all pods of a machine."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vireo.server.errors import VireoError
from vireo.server.releases.manifest import FileEntry, ReleaseError
from vireo.server.releases.progress import LoadProgress
from vireo.server.releases.store import ReleaseStore

PART = ".part"
"""Suffix of incomplete files."""
_STALLED_SECONDS = 30.0
"""Seconds without a byte after which another pod's download of the same file counts as stalled."""
_LOOK_SECONDS = 0.05


class CacheError(VireoError):
    """The cache can't hold or return a release; the message names the cause and the fix."""


@dataclass(frozen=True)
class Download:
    """One file to fetch."""

    store: ReleaseStore
    release_id: str
    path: str
    entry: FileEntry
    target: Path
    """Final path. `<target>.part` is what has arrived of it; whoever writes that holds its lock."""
    progress: LoadProgress

    @property
    def part(self) -> Path:
        """Path of what has arrived so far."""
        return self.target.with_name(self.target.name + PART)

    def run(self) -> None:
        """Download the file to `target`, and verify its size and digest.

        If another pod of this machine is fetching the file, wait for it.

        Raises:
            ReleaseError: the store's content doesn't match the manifest; what arrived was
                deleted.
            StoreError: the store can't be read; what arrived is kept for the next attempt.
            CacheError: another pod's download of it has stalled.
            OSError: the disk can't hold it; what arrived was deleted to free the space.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as file:
            if file is None:  # another pod was first
                return
            try:
                had = self._resume(file)
                if had and not is_sound(self.part, self.entry):
                    # The leftover of an earlier attempt may be to blame, not the store.
                    file.truncate(0)
                    self._resume(file)
                if not is_sound(self.part, self.entry):
                    raise self._mismatch(file)
            except (ReleaseError, OSError):
                self.part.unlink(missing_ok=True)
                raise
            except Exception:
                if not self.part.stat().st_size:
                    self.part.unlink()
                raise
            self.part.replace(self.target)

    def _resume(self, file: BinaryIO) -> int:
        """Fetch the rest of the part; return how many bytes of it were here before."""
        had = file.seek(0, os.SEEK_END)
        if had > self.entry.size:
            file.truncate(0)
            had = file.seek(0)
        if had == self.entry.size:
            return had
        size = had
        for chunk in self.store.read(self.release_id, self.path, offset=had):
            size += len(chunk)
            if size > self.entry.size:
                raise ReleaseError(
                    f"{self.path} of release {self.release_id} is larger in the store than the "
                    f"{self.entry.size} bytes that the manifest lists; publish the release again "
                    "under a new id"
                )
            file.write(chunk)
            file.flush()
            self.progress.arrived(self.path, size)
        return had

    def _mismatch(self, file: BinaryIO) -> ReleaseError:
        size = file.seek(0, os.SEEK_END)
        what = (
            "another SHA-256"
            if size == self.entry.size
            else f"{size} bytes instead of {self.entry.size}"
        )
        return ReleaseError(
            f"{self.path} of release {self.release_id} isn't the file that the manifest describes "
            f"({what}); publish the release again under a new id"
        )

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO | None]:
        """Yield the locked part; None if another pod has completed the file meanwhile."""
        seen, since = -1, time.monotonic()
        while True:
            # Not "w": that would truncate what is there to be resumed.
            with os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                if try_lock(file):
                    if not _is_at(file, self.part):  # renamed or deleted before it was locked
                        continue
                    if is_sound(self.target, self.entry):
                        self.part.unlink()
                        self.progress.arrived(self.path, self.entry.size)
                        yield None
                    else:
                        yield file
                    return
                size = os.fstat(file.fileno()).st_size
            self.progress.arrived(self.path, min(size, self.entry.size))
            if size != seen:
                seen, since = size, time.monotonic()
            elif time.monotonic() - since > _STALLED_SECONDS:
                raise CacheError(
                    f"{self.path} of release {self.release_id} has been downloaded by another "
                    f"process for {_STALLED_SECONDS:.0f} s without a byte; see what holds "
                    f"{self.part}"
                )
            time.sleep(_LOOK_SECONDS)


def is_sound(path: Path, entry: FileEntry) -> bool:
    """Return whether the file exists and matches its digest."""
    try:
        return path.stat().st_size == entry.size and FileEntry.of(path) == entry
    except FileNotFoundError:
        return False


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed; return False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
