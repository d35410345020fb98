"""The local cache of releases, a folder each.

Pods of one machine share it. Whatever appears under its final name got there by rename, and
is complete.
"""

from __future__ import annotations

import itertools
import operator
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from vireo.server.releases.download import PART, CacheError, Download, is_sound
from vireo.server.releases.layout import OPTIONAL
from vireo.server.releases.manifest import MANIFEST_NAME, FileEntry, Manifest, ReleaseError
from vireo.server.releases.progress import LoadProgress, Stage
from vireo.server.releases.store import ReleaseStore, check_release_id

__all__ = ["CacheError", "ReleaseCache"]

log = structlog.get_logger()

_PARALLEL = 4
_IN_USE_SECONDS = 300.0
"""Pruning keeps what was used more recently: it may be about to be built or recorded."""


class ReleaseCache:
    """Releases below one folder: `releases/<id>/…`, and `last/<pod>/<channel>`."""

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
        store: ReleaseStore | None,
        release_id: str,
        files: Sequence[str],
        progress: LoadProgress | None = None,
    ) -> Path:
        """Return the folder of a release, with its manifest and `files`, every digest verified.

        Files in the cache aren't downloaded again unless they are damaged. If all are cached, no
        request is sent to the store: releases are immutable.

        Args:
            store: the store to download missing files from; None to do without.
            release_id: the release.
            files: the files to have, by path in the release.
            progress: is updated at each step.

        Raises:
            ReleaseError: the release lacks a file, or the store's content doesn't match the
                manifest.
            CacheError: the disk is full or can't be written; or, without a store, the release isn't
                here, or is damaged.
            StoreError: the store can't be read; what has arrived is kept for the next attempt.
        """
        progress = progress or LoadProgress()
        manifest = self._manifest(release_id) or (store.manifest(release_id) if store else None)
        if manifest is None:
            raise CacheError(f"release {release_id} isn't in the cache {self.root}")
        entries, folder = _entries(manifest, files), self._folder(release_id)
        progress.expect(sum(entry.size for entry in entries.values()))
        with ThreadPoolExecutor(_PARALLEL) as threads, _disk_errors_explained(self.root):
            self._touch(release_id)
            absent = self._absent(folder, entries, threads, progress)
            if absent and store is None:
                raise CacheError(
                    f"{next(iter(absent))} of release {release_id} is missing or damaged in the "
                    f"cache {self.root}"
                )
            if absent and store is not None:
                progress.enter(Stage.DOWNLOADING)
                self._make_space(folder, absent)
                downloads = [
                    Download(store, release_id, path, entry, folder / path, progress)
                    for path, entry in absent.items()
                ]
                list(threads.map(Download.run, downloads))
            # Without its manifest a folder is no release.
            _write(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
            return folder

    def remember(self, pod: str, channel: str, release_id: str) -> None:
        """Record that pods of a kind serve this release of a channel.

        The release that they served until now counts as just used: a rollback needs it.

        Raises:
            CacheError: the cache can't be read or written.
        """
        before = self.last(pod, channel)
        with _disk_errors_explained(self.root):
            if before is not None and self._folder(before).is_dir():
                self._touch(before)
            _write(self.root / "last" / pod / channel, release_id.encode())

    def last(self, pod: str, channel: str) -> str | None:
        """Return the release of a channel that pods of a kind served last; None if there is none.

        Raises:
            CacheError: the record can't be read.
        """
        note = self.root / "last" / pod / channel
        with _disk_errors_explained(self.root):
            return note.read_text(errors="replace") if note.exists() else None

    def prune(self) -> list[str]:
        """Delete releases that are no longer needed; return their ids.

        Raises:
            CacheError: the cache can't be read or written.
        """
        with _disk_errors_explained(self.root):
            served = {
                note.read_text(errors="replace")
                for note in self.root.glob("last/*/*")
                if note.is_file() and note.suffix != PART
            }
            others = [each for each in self.root.glob("releases/*") if each.name not in served]
            others.sort(key=_unused_seconds)
            gone = [
                each for each in others[self._keep :] if _unused_seconds(each) > _IN_USE_SECONDS
            ]
            for folder in gone:
                # Another pod may prune too, and a file that can't be deleted now is the next time.
                shutil.rmtree(folder, ignore_errors=True)
        if gone:
            log.info("releases pruned from the cache", releases=[each.name for each in gone])
        return [folder.name for folder in gone]

    def _manifest(self, release_id: str) -> Manifest | None:
        """Return the manifest of a fetched release; None if it isn't in the cache."""
        check_release_id(release_id)
        with _disk_errors_explained(self.root):
            try:
                return Manifest.read(self._folder(release_id))
            except ReleaseError:  # absent, or of another build's format: the store has it
                return None

    def _absent(
        self,
        folder: Path,
        entries: Mapping[str, FileEntry],
        threads: ThreadPoolExecutor,
        progress: LoadProgress,
    ) -> dict[str, FileEntry]:
        """Return the files that aren't cached or don't match their digests."""
        progress.enter(Stage.VERIFYING)
        others: dict[Path, Manifest] = {}
        for other in self.root.glob("releases/*"):
            with suppress(ReleaseError):
                others[other] = Manifest.read(other)

        def check(path: str, entry: FileEntry) -> bool:
            sound = is_sound(folder / path, entry)
            for other, known in others.items():
                if not sound and other != folder and known.files.get(path) == entry:
                    _link(other / path, folder / path)
                    sound = is_sound(folder / path, entry)
            progress.arrived(path, entry.size if sound else 0)
            return sound

        found = list(threads.map(check, entries.keys(), entries.values()))
        return dict(itertools.compress(entries.items(), map(operator.not_, found)))

    def _make_space(self, folder: Path, absent: Mapping[str, FileEntry]) -> None:
        """Make room for the files, by pruning if needed."""
        needed = sum(entry.size for entry in absent.values())
        for path in absent:
            part = folder / f"{path}{PART}"
            needed -= part.stat().st_size if part.exists() else 0
        if needed > shutil.disk_usage(self.root).free:
            self.prune()
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise CacheError(
                f"the release needs {_size(needed)} more in {self.root}, which has "
                f"{_size(free)} left; free some disk space, or set VIREO_CACHE to another disk"
            )

    def _folder(self, release_id: str) -> Path:
        return self.root / "releases" / release_id

    def _touch(self, release_id: str) -> None:
        """Mark a release as just used, so that it isn't the next to be pruned."""
        folder = self._folder(release_id)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)


def _link(source: Path, target: Path) -> None:
    """Have the file of another release here too; do nothing if it isn't there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    link = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PART}")
    with suppress(FileNotFoundError):
        os.link(source, link)
        link.replace(target)


def _unused_seconds(folder: Path) -> float:
    """Return the seconds since a release was used; 0 if another pod has just pruned it."""
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


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
