"""The local cache of releases: files by their digest, releases as folders of hard links.

Pods of one machine share it. Whatever appears under its final name got there by rename, and
is complete.
"""

from __future__ import annotations

import itertools
import operator
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from vireo.server.releases.download import PART, CacheError, Download, in_use, is_sound
from vireo.server.releases.layout import OPTIONAL
from vireo.server.releases.manifest import MANIFEST_NAME, FileEntry, Manifest, ReleaseError
from vireo.server.releases.progress import LoadProgress, Stage
from vireo.server.releases.pruning import prune
from vireo.server.releases.store import ReleaseStore, check_release_id

__all__ = ["CacheError", "ReleaseCache"]

_PARALLEL = 4


class ReleaseCache:
    """Releases below one folder: `blobs/<sha256>`, `releases/<id>/…`, `last/<pod>/<channel>`."""

    def __init__(self, root: Path, keep: int = 3) -> None:
        """Start with `root`; nothing is read or written yet.

        Args:
            root: the folder; it is made when something is fetched.
            keep: number of releases to keep, the most recently used, besides those that pods of
                this machine serve or served last.
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
        """Return the folder of a release, with its manifest and `files`, every digest verified.

        Files in the cache aren't downloaded again unless they are damaged. If all are cached, no
        request is sent to the store: releases are immutable.

        Args:
            store: the store to download missing files from.
            release_id: the release.
            files: the files to have, by path in the release.
            progress: is updated at each step.

        Raises:
            ReleaseError: the release lacks a file, or the store's content doesn't match the
                manifest.
            CacheError: the disk is full or can't be written.
            StoreError: the store can't be read; what has arrived is kept for the next attempt.
        """
        manifest = self._manifest(release_id) or store.manifest(release_id)
        return self._provide(manifest, files, progress or LoadProgress(), store)

    def open(
        self, release_id: str, files: Sequence[str], progress: LoadProgress | None = None
    ) -> Path:
        """Return the folder of a release that was fetched before, every digest verified again.

        Raises:
            CacheError: the release isn't in the cache, or is damaged.
        """
        manifest = self._manifest(release_id)
        if manifest is None:
            raise CacheError(f"release {release_id} isn't in the cache {self.root}")
        return self._provide(manifest, files, progress or LoadProgress(), None)

    def _provide(
        self,
        manifest: Manifest,
        files: Sequence[str],
        progress: LoadProgress,
        store: ReleaseStore | None,
    ) -> Path:
        """Verify, download what is missing if there is a store, and link everything."""
        release_id, folder = manifest.release_id, self._folder(manifest.release_id)
        entries = _entries(manifest, files)
        progress.expect(sum(entry.size for entry in entries.values()))
        with (
            ThreadPoolExecutor(_PARALLEL) as threads,
            _disk_errors_explained(self.root),
            in_use(folder),
        ):
            (self.root / "blobs").mkdir(parents=True, exist_ok=True)
            self._touch(release_id)
            absent = self._absent(entries, threads, progress)
            if absent and store is None:
                raise CacheError(
                    f"{next(iter(absent))} of release {release_id} is missing or damaged in the "
                    f"cache {self.root}"
                )
            for path in entries.keys() - absent.keys():
                self._link(release_id, path, entries[path])
            if absent:
                progress.enter(Stage.DOWNLOADING)
                # Only after the links above: pruning deletes blobs that no release links.
                self._make_space(absent)

            def download(path: str, entry: FileEntry) -> None:
                assert store is not None
                Download(store, release_id, path, entry, self._blob(entry), progress).run()
                self._link(release_id, path, entry)

            list(threads.map(download, absent.keys(), absent.values()))
            # Without its manifest a folder is no release.
            _write(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
            return folder

    def remember(self, pod: str, channel: str, release_id: str) -> bool:
        """Record that pods of a kind serve this release of a channel.

        The release that they served until now counts as just used: a rollback needs it.

        Returns:
            Whether the release is still cached: another pod may have pruned it already.
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
        """Return the release of a channel that pods of a kind served last; None if there is none.

        Raises:
            CacheError: the record can't be read.
        """
        note = self.root / "last" / pod / channel
        with _disk_errors_explained(self.root):
            return note.read_text(errors="replace") if note.exists() else None

    def prune(self) -> list[str]:
        """Delete what is no longer needed; return the ids of the releases deleted.

        Raises:
            CacheError: the cache can't be read or written.
        """
        with _disk_errors_explained(self.root):
            return prune(self.root, self._keep)

    def _manifest(self, release_id: str) -> Manifest | None:
        """Return the manifest of a fetched release; None if it isn't in the cache."""
        check_release_id(release_id)
        with _disk_errors_explained(self.root):
            try:
                return Manifest.read(self._folder(release_id))
            except ReleaseError:  # absent, or of another build's format: the store has it
                return None

    def _absent(
        self, entries: Mapping[str, FileEntry], threads: ThreadPoolExecutor, progress: LoadProgress
    ) -> dict[str, FileEntry]:
        """Return the files that aren't cached or don't match their digests."""
        progress.enter(Stage.VERIFYING)

        def check(path: str, entry: FileEntry) -> bool:
            sound = is_sound(self._blob(entry), entry)
            progress.arrived(path, entry.size if sound else 0)
            return sound

        found = list(threads.map(check, entries.keys(), entries.values()))
        return dict(itertools.compress(entries.items(), map(operator.not_, found)))

    def _make_space(self, absent: Mapping[str, FileEntry]) -> None:
        """Make room for the files, by pruning if needed."""
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
        """Mark a release as just used, so that it isn't the next to be pruned."""
        folder = self._folder(release_id)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)

    def _link(self, release_id: str, path: str, entry: FileEntry) -> None:
        """Link a blob under its name in the release's folder."""
        target, blob = self._folder(release_id) / path, self._blob(entry)
        if target.exists() and target.samefile(blob):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        link = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PART}")
        os.link(blob, link)
        link.replace(target)
        # Another pod may have been first: renaming onto a link of the same file does nothing.
        link.unlink(missing_ok=True)


def _entries(manifest: Manifest, files: Sequence[str]) -> dict[str, FileEntry]:
    for path in files:
        if path not in manifest.files and path not in OPTIONAL:
            raise ReleaseError(f"release {manifest.release_id} has no {path}; train it again")
    return {path: manifest.files[path] for path in files if path in manifest.files}


@contextmanager
def _disk_errors_explained(root: Path) -> Iterator[None]:
    """Raise the operating system's errors as CacheError."""
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
