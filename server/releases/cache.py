"""The local cache of releases: files by their digest, releases as folders of hard links.

Pods of one machine share it. Whatever appears under its final name got there by rename, and
is complete.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from server.releases.download import PART, CacheError, Download, in_use, is_sound
from server.releases.manifest import MANIFEST_NAME, FileEntry, Manifest, ReleaseError
from server.releases.names import check_release_id
from server.releases.progress import LoadProgress, Stage
from server.releases.pruning import prune
from server.releases.store import ReleaseStore

__all__ = ["CacheError", "ReleaseCache"]

_PARALLEL = 4


class ReleaseCache:
    """Releases below one folder: `blobs/<sha256>`, `releases/<id>/…`, `last/<pod>/<channel>`."""

    def __init__(self, root: Path, keep: int = 3) -> None:
        """Takes the folder, and how many releases to keep.

        Args:
            root: the folder; it is made when something is fetched.
            keep: how many releases stay besides those that pods of this machine serve, or
                served last: the ones that were used last.
        """
        self.root = root
        self._keep = keep

    def fetch(
        self,
        store: ReleaseStore,
        release_id: str,
        files: Sequence[str],
        progress: LoadProgress | None = None,
    ) -> Path:
        """The folder of a release, with its manifest and `files`, every digest verified.

        Files that are here already aren't downloaded again, unless they are damaged. Where
        all are here, the store isn't asked for anything: releases don't change.

        Args:
            store: where what is missing comes from.
            release_id: the release.
            files: the files to have, by path in the release.
            progress: is told of each step.

        Raises:
            ReleaseError: the release lacks a file, or the store has other content than the
                manifest says.
            CacheError: the disk is full or can't be written.
            StoreError: the store can't be read; what has come is kept for the next attempt.
        """
        progress = progress or LoadProgress()
        manifest = self._manifest(release_id) or store.manifest(release_id)
        entries = _entries(manifest, files)
        progress.expect(sum(entry.size for entry in entries.values()))
        with (
            ThreadPoolExecutor(_PARALLEL) as threads,
            _disk_errors_explained(self.root),
            in_use(self._folder(release_id)),
        ):
            (self.root / "blobs").mkdir(parents=True, exist_ok=True)
            self._touch(release_id)
            absent = self._absent(entries, threads, progress)
            for path in entries.keys() - absent.keys():
                self._link(release_id, path, entries[path])
            if absent:
                progress.enter(Stage.DOWNLOADING)
                # Only now: it deletes what no release links.
                self._make_space(absent)

            def download(path: str, entry: FileEntry) -> None:
                blob = self._blob(entry)
                Download(store, release_id, path, entry, blob, progress).run()
                self._link(release_id, path, entry)

            list(threads.map(download, absent.keys(), absent.values()))
            return self._complete(manifest)

    def open(
        self, release_id: str, files: Sequence[str], progress: LoadProgress | None = None
    ) -> Path:
        """The folder of a release that was fetched before, every digest verified again.

        Raises:
            CacheError: it isn't here, or is damaged.
        """
        progress = progress or LoadProgress()
        manifest = self._manifest(release_id)
        if manifest is None:
            raise CacheError(f"release {release_id} isn't in the cache {self.root}")
        entries = _entries(manifest, files)
        progress.expect(sum(entry.size for entry in entries.values()))
        with (
            ThreadPoolExecutor(_PARALLEL) as threads,
            _disk_errors_explained(self.root),
            in_use(self._folder(release_id)),
        ):
            for path in self._absent(entries, threads, progress):
                raise CacheError(
                    f"{path} of release {release_id} is missing or damaged in the cache {self.root}"
                )
            for path, entry in entries.items():
                self._link(release_id, path, entry)
            self._touch(release_id)
            return self._complete(manifest)

    def remember(self, pod: str, channel: str, release_id: str) -> bool:
        """Note that pods of a kind serve this release of a channel.

        The one that they served until now counts as used just now: a rollback needs it.

        Returns:
            Whether the release is still here: another pod may have pruned it before it was noted.
        """
        before = self.last(pod, channel)
        folder = self._folder(release_id)
        with _disk_errors_explained(self.root):
            if before is not None and self._folder(before).is_dir():
                self._touch(before)
            with in_use(folder):
                _write(self.root / "last" / pod / channel, release_id.encode())
            return (folder / MANIFEST_NAME).exists()

    def last(self, pod: str, channel: str) -> str | None:
        """The release of a channel that pods of a kind served last; None where none was.

        Raises:
            CacheError: the note of it can't be read.
        """
        note = self.root / "last" / pod / channel
        with _disk_errors_explained(self.root):
            return note.read_text(errors="replace") if note.exists() else None

    def prune(self) -> list[str]:
        """Deletes what nothing needs any more; gives the ids of the releases that went.

        Raises:
            CacheError: the cache can't be read or written.
        """
        with _disk_errors_explained(self.root):
            return prune(self.root, self._keep)

    def _manifest(self, release_id: str) -> Manifest | None:
        """The manifest of a release that has been fetched; None where it isn't here."""
        check_release_id(release_id)
        with _disk_errors_explained(self.root):
            try:
                return Manifest.read(self._folder(release_id))
            except ReleaseError:  # absent, or of another build's format: the store has it
                return None

    def _absent(
        self, entries: Mapping[str, FileEntry], threads: ThreadPoolExecutor, progress: LoadProgress
    ) -> dict[str, FileEntry]:
        """The files that aren't here, or aren't what their digests say."""
        progress.enter(Stage.VERIFYING)

        def check(path: str, entry: FileEntry) -> bool:
            sound = is_sound(self._blob(entry), entry)
            progress.arrived(path, entry.size if sound else 0)
            return sound

        found = threads.map(check, entries.keys(), entries.values())
        return {
            path: entry
            for (path, entry), sound in zip(entries.items(), found, strict=True)
            if not sound
        }

    def _make_space(self, absent: Mapping[str, FileEntry]) -> None:
        """Sees that there is room for the files, if need be by pruning."""
        needed = sum(entry.size for entry in {e.sha256: e for e in absent.values()}.values())
        for entry in absent.values():
            part = self._blob(entry).with_name(entry.sha256 + PART)
            needed -= part.stat().st_size if part.exists() else 0
        if needed > shutil.disk_usage(self.root).free:
            prune(self.root, self._keep)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise CacheError(
                f"the release needs {_size(needed)} more in {self.root}, which has "
                f"{_size(free)} left; free some disk space, or set VIREO_CACHE to another disk"
            )

    def _blob(self, entry: FileEntry) -> Path:
        return self.root / "blobs" / entry.sha256

    def _folder(self, release_id: str) -> Path:
        return self.root / "releases" / release_id

    def _touch(self, release_id: str) -> None:
        """Marks a release as used now, so that it isn't the next to be pruned."""
        folder = self._folder(release_id)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)

    def _link(self, release_id: str, path: str, entry: FileEntry) -> None:
        """Gives a blob its name in the release's folder."""
        target, blob = self._folder(release_id) / path, self._blob(entry)
        if target.exists() and target.samefile(blob):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        link = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PART}")
        os.link(blob, link)
        link.replace(target)
        # Another pod may have been first: renaming onto a link of the same file does
        # nothing at all.
        link.unlink(missing_ok=True)

    def _complete(self, manifest: Manifest) -> Path:
        """Adds the manifest, without which a folder is no release."""
        folder = self._folder(manifest.release_id)
        _write(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
        return folder


def _entries(manifest: Manifest, files: Sequence[str]) -> dict[str, FileEntry]:
    for path in files:
        if path not in manifest.files:
            raise ReleaseError(f"release {manifest.release_id} has no {path}; train it again")
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
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
