"""The local cache of releases: files by their digest, releases as folders of hard links.

Pods of one machine share it. Whatever appears under its final name got there by rename, and
is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from server.errors import VireoError
from server.releases.manifest import MANIFEST_NAME, FileEntry, Manifest, ReleaseError
from server.releases.names import check_release_id
from server.releases.store import ReleaseStore

_PARALLEL = 4


class CacheError(VireoError):
    """The cache can't hold or give a release; the message names the cause and the fix."""


class ReleaseCache:
    """Releases below one folder: `blobs/<sha256>`, `releases/<id>/…`, `last/<pod>/<channel>`."""

    def __init__(self, root: Path) -> None:
        """Takes the folder; it is made when something is fetched."""
        self.root = root

    def fetch(self, store: ReleaseStore, release_id: str, files: Sequence[str]) -> Path:
        """The folder of a release, with its manifest and `files`, every digest verified.

        Files that are here already aren't downloaded again, unless they are damaged.

        Raises:
            ReleaseError: the release lacks a file, or the store has other content than the
                manifest says.
            CacheError: the disk is full or can't be written.
            StoreError: the store can't be read.
        """
        manifest = store.manifest(release_id)
        entries = _entries(manifest, files)
        with ThreadPoolExecutor(_PARALLEL) as threads, _disk_errors_explained(self.root):
            (self.root / "blobs").mkdir(parents=True, exist_ok=True)
            sound = threads.map(self._is_sound, entries.values())
            absent = {
                path: entry
                for (path, entry), is_sound in zip(entries.items(), sound, strict=True)
                if not is_sound
            }
            self._check_space(sum(entry.size for entry in absent.values()))

            def download(path: str, entry: FileEntry) -> None:
                self._download(store, release_id, path, entry)

            list(threads.map(download, absent.keys(), absent.values()))
            return self._folder_of(manifest, entries)

    def open(self, release_id: str, files: Sequence[str]) -> Path:
        """The folder of a release that was fetched before, every digest verified again.

        Raises:
            CacheError: it isn't here, or is damaged.
        """
        check_release_id(release_id)
        folder = self.root / "releases" / release_id
        try:
            manifest = Manifest.read(folder)
        except ReleaseError as error:
            raise CacheError(f"release {release_id} isn't in the cache {self.root}") from error
        entries = _entries(manifest, files)
        with _disk_errors_explained(self.root):
            for path, entry in entries.items():
                if not self._is_sound(entry):
                    raise CacheError(
                        f"{path} of release {release_id} is missing or damaged in the cache "
                        f"{self.root}"
                    )
            return self._folder_of(manifest, entries)

    def remember(self, pod: str, channel: str, release_id: str) -> None:
        """Notes that pods of a kind served this release of a channel."""
        with _disk_errors_explained(self.root):
            _write(self.root / "last" / pod / channel, release_id.encode())

    def last(self, pod: str, channel: str) -> str | None:
        """The release of a channel that pods of a kind served last; None where none was.

        Raises:
            CacheError: the note of it can't be read.
        """
        note = self.root / "last" / pod / channel
        with _disk_errors_explained(self.root):
            return note.read_text(errors="replace") if note.exists() else None

    def _blob(self, entry: FileEntry) -> Path:
        return self.root / "blobs" / entry.sha256

    def _is_sound(self, entry: FileEntry) -> bool:
        """Whether the file is here and is what its digest says."""
        blob = self._blob(entry)
        return blob.exists() and blob.stat().st_size == entry.size and FileEntry.of(blob) == entry

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise CacheError(
                f"the release needs {_size(needed)} more in {self.root}, which has "
                f"{_size(free)} left; free some disk space, or set VIREO_CACHE to another disk"
            )

    def _download(self, store: ReleaseStore, release_id: str, path: str, entry: FileEntry) -> None:
        blob = self._blob(entry)
        part = blob.with_name(f"{entry.sha256}.{uuid.uuid4().hex}.part")
        digest = hashlib.sha256()
        size = 0
        try:
            with part.open("wb") as file:
                for chunk in store.read(release_id, path):
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
            if (size, digest.hexdigest()) != (entry.size, entry.sha256):
                raise ReleaseError(
                    f"{path} of release {release_id} isn't the file that the manifest describes "
                    f"({size} bytes instead of {entry.size}, or another SHA-256); publish the "
                    "release again under a new id"
                )
            part.replace(blob)
        finally:
            part.unlink(missing_ok=True)

    def _folder_of(self, manifest: Manifest, entries: dict[str, FileEntry]) -> Path:
        folder = self.root / "releases" / manifest.release_id
        for path, entry in entries.items():
            target, blob = folder / path, self._blob(entry)
            if target.exists() and target.samefile(blob):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            link = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
            os.link(blob, link)
            link.replace(target)
            # Another pod may have been first: renaming onto a link of the same file does
            # nothing at all.
            link.unlink(missing_ok=True)
        _write(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
        return folder


def _entries(manifest: Manifest, files: Sequence[str]) -> dict[str, FileEntry]:
    for path in files:
        if path not in manifest.files:
            raise ReleaseError(f"release {manifest.release_id} has no {path}; train it again")
        if not re.fullmatch("[0-9a-f]{64}", manifest.files[path].sha256):
            raise ReleaseError(f"release {manifest.release_id}: {path} has no SHA-256")
    return {path: manifest.files[path] for path in files}


@contextmanager
def _disk_errors_explained(root: Path) -> Iterator[None]:
    """Turns the operating system's errors into CacheError."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache {root} can't be used: {error.strerror or error}; free some disk "
            "space, or set VIREO_CACHE to a folder that this user can write"
        ) from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    part.write_bytes(content)
    part.replace(path)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
