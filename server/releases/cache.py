"""The local cache of releases, a folder each, which the pods of one machine share.

Whatever appears under its final name got there by rename, and is complete. One process at a time
downloads into a folder, and the others find there what it has fetched.
"""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

import structlog

from vireo.server.errors import VireoError
from vireo.server.file_lock import try_lock
from vireo.server.releases.layout import OPTIONAL
from vireo.server.releases.manifest import MANIFEST_NAME, FileEntry, Manifest, ReleaseError
from vireo.server.releases.store import ReleaseStore, check_release_id

log = structlog.get_logger()

_PARALLEL = 4
_PART = ".part"
"""Suffix of incomplete files."""
_IN_USE_SECONDS = 300.0
"""Pruning keeps what was used more recently: it may be about to be built or recorded."""
_STALLED_SECONDS = 30.0
"""Seconds after which another process's download of a release has stalled, if no byte has come and
no file has been verified; one of some GB is verified in less."""
_MAX_TURN_SECONDS = 10.0
"""A pod then builds without a turn: the one before it may hang."""
_REST_SECONDS = 0.15
"""Between two builds: requests that the one delayed are answered before the next one begins."""
_LOOK_SECONDS = 0.02


class Stage(StrEnum):
    """What a loader is doing, in the order of a load."""

    LOOKING = "looking"
    """Reading from the channel which release to serve."""
    VERIFYING = "verifying"
    """Comparing the cached files with the manifest's digests."""
    DOWNLOADING = "downloading"
    BUILDING = "building"
    """Building sessions, index and tables beside those that serve."""
    REPLAYING = "replaying"
    """Comparing golden requests with their recorded outputs."""
    WAITING = "waiting"
    """Ready, and waiting until the pods that it calls serve the same release."""
    SERVING = "serving"
    """Nothing is being loaded."""


class LoadStoppedError(Exception):
    """The load was stopped: its process is about to end, or another release is wanted."""


@dataclass
class LoadProgress:
    """The progress of one load; its threads write it, and anybody may read it."""

    stage: Stage = Stage.LOOKING
    release_id: str = ""
    """The release that is loaded; empty while looking for the first one."""
    bytes_total: int = 0
    """Size of the files that this pod needs; 0 until the manifest is known."""
    stopped: bool = False
    """Whether the load is to end, at its next byte."""
    _files: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_done(self) -> int:
        """Bytes of those files that are verified in the cache or have arrived."""
        return sum(list(self._files.values()))

    def arrived(self, path: str, size: int) -> None:
        """Set how many bytes of a file have arrived; raise LoadStoppedError to stop the load."""
        self.check()
        self._files[path] = size

    def check(self) -> None:
        """Raise LoadStoppedError if the load is stopped."""
        if self.stopped:
            raise LoadStoppedError


class CacheError(VireoError):
    """The cache can't hold or return a release; the message names the cause and the fix."""


@dataclass(frozen=True)
class ReleaseCache:
    """Releases below one folder: `releases/<id>/…`, and `last/<pod>/<channel>`."""

    root: Path
    """The folder; it is made when something is fetched."""
    keep: int = 3
    """Number of releases to keep, the most recently used, besides those that pods of this machine
    serve or served last."""

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
            progress: is updated at each step, and may stop it.

        Raises:
            ReleaseError: the release lacks a file, or the store's content doesn't match the
                manifest.
            CacheError: the disk is full or can't be written; or, without a store, the release isn't
                here, or is damaged.
            StoreError: the store can't be read; what has arrived is kept for the next attempt.
            LoadStoppedError: `progress` says so.
        """
        progress = progress or LoadProgress()
        manifest = self._manifest(release_id) or (store.manifest(release_id) if store else None)
        if manifest is None:
            raise CacheError(f"release {release_id} isn't in the cache {self.root}")
        entries, folder = _entries(manifest, files), self._folder(release_id)
        progress.bytes_total = sum(entry.size for entry in entries.values())
        progress.stage = Stage.VERIFYING
        with _disk_errors_explained(self.root):
            self._touch(release_id)
            if absent := _absent(folder, entries, progress):
                if store is None:
                    raise CacheError(
                        f"{next(iter(absent))} of release {release_id} is missing or damaged in "
                        f"the cache {self.root}"
                    )
                progress.stage = Stage.DOWNLOADING
                files_there = partial(_files_in, folder)
                with _locked(folder, _STALLED_SECONDS, progress, files_there) as alone:
                    if not alone:
                        raise CacheError(
                            f"another process has been downloading release {release_id} for "
                            f"{_STALLED_SECONDS:.0f} s without a byte; see what holds {folder}"
                        )
                    # All of them: what was there may have been pruned during the wait.
                    rest = _absent(folder, entries, progress, mark=True)
                    self._make_space(folder, rest)
                    get = partial(download, store, release_id, folder, progress)
                    with ThreadPoolExecutor(_PARALLEL) as threads:
                        list(threads.map(get, rest, rest.values()))
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
                if note.is_file() and note.suffix != _PART
            }
            others = [each for each in self.root.glob("releases/*") if each.name not in served]
            others.sort(key=_unused_seconds)
            gone = []
            for folder in others[self.keep :]:
                if _unused_seconds(folder) <= _IN_USE_SECONDS:
                    continue
                # Another pod may prune too, and a file that can't be deleted now is the next time.
                with suppress(OSError), _locked(folder, 0, LoadProgress()) as alone:
                    if alone:  # no slow download into it is in progress
                        shutil.rmtree(folder, ignore_errors=True)
                        gone.append(folder.name)
        if gone:
            log.info("releases pruned from the cache", releases=gone)
        return gone

    @contextmanager
    def build_turn(self, progress: LoadProgress) -> Iterator[None]:
        """Wait until no other pod that shares the cache is building, for at most ten seconds."""
        with _locked(self.root, _MAX_TURN_SECONDS, progress):
            time.sleep(_REST_SECONDS)
            yield

    def _manifest(self, release_id: str) -> Manifest | None:
        """Return the manifest of a fetched release; None if it isn't in the cache."""
        check_release_id(release_id)
        with _disk_errors_explained(self.root):
            try:
                return Manifest.read(self._folder(release_id))
            except ReleaseError:  # absent, or of another build's format: the store has it
                return None

    def _make_space(self, folder: Path, rest: Mapping[str, FileEntry]) -> None:
        """Prune if the rest of a release doesn't fit, and raise CacheError if it still doesn't.

        Otherwise pods prune after a swap alone, which a full disk would prevent for good.
        """
        parts = [folder / f"{path}{_PART}" for path in rest]
        needed = sum(entry.size for entry in rest.values())
        needed -= sum(part.stat().st_size for part in parts if part.exists())
        if needed > shutil.disk_usage(self.root).free:
            self.prune()
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise CacheError(
                f"the release needs {needed / 1e6:,.1f} MB more in {self.root}, which has "
                f"{free / 1e6:,.1f} MB left; free some disk space, or set VIREO_CACHE to another "
                "disk"
            )

    def _folder(self, release_id: str) -> Path:
        return self.root / "releases" / release_id

    def _touch(self, release_id: str) -> None:
        """Mark a release as just used, so that it isn't the next to be pruned."""
        folder = self._folder(release_id)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)


def download(
    store: ReleaseStore,
    release_id: str,
    folder: Path,
    progress: LoadProgress,
    path: str,
    entry: FileEntry,
) -> None:
    """Download a file of a release into `folder`, by way of `<path>.part`, and verify its digest.

    Raises:
        ReleaseError: the store's content doesn't match the manifest; what arrived was deleted.
        StoreError: the store can't be read; what arrived is kept for the next attempt.
        LoadStoppedError: `progress` says so; what arrived is kept, too.
        OSError: the disk can't hold it; what arrived was deleted to free the space.
    """
    target = folder / path
    part = target.with_name(target.name + _PART)
    target.parent.mkdir(parents=True, exist_ok=True)

    def get_rest() -> int:
        """Fetch what the part lacks; return how many bytes of it were here before."""
        had = part.stat().st_size if part.exists() else 0
        if had > entry.size:
            had = 0
        with part.open("ab" if had else "wb") as file:
            chunks = store.read(release_id, path, offset=had) if had < entry.size else iter(())
            for chunk in chunks:
                file.write(chunk)
                progress.arrived(path, min(file.tell(), entry.size))
                if file.tell() > entry.size:
                    break
        return had

    try:
        if get_rest() and not is_sound(part, entry):
            # The leftover of an earlier attempt may be to blame, not the store.
            part.unlink()
            get_rest()
        if not is_sound(part, entry):
            size = part.stat().st_size
            other = f"{size} bytes instead of {entry.size}"
            raise ReleaseError(
                f"{path} of release {release_id} isn't the file that the manifest describes "
                f"({'another SHA-256' if size == entry.size else other}); publish the release "
                "again under a new id"
            )
    except (ReleaseError, OSError):
        part.unlink(missing_ok=True)
        raise
    part.replace(target)


def is_sound(path: Path, entry: FileEntry) -> bool:
    """Return whether the file exists and matches its digest."""
    try:
        return path.stat().st_size == entry.size and FileEntry.of(path) == entry
    except FileNotFoundError:
        return False


def _absent(
    folder: Path, entries: Mapping[str, FileEntry], progress: LoadProgress, *, mark: bool = False
) -> dict[str, FileEntry]:
    """Return the files that aren't in the folder, or don't match their digests.

    With `mark`, the others are touched, so that processes that wait see that this one goes on.
    """

    def check(path: str) -> bool:
        sound = is_sound(folder / path, entries[path])
        if sound and mark:
            os.utime(folder / path)
        progress.arrived(path, entries[path].size if sound else 0)
        return sound

    with ThreadPoolExecutor(_PARALLEL) as threads:
        found = zip(entries, threads.map(check, entries), strict=True)
        return {path: entries[path] for path, sound in found if not sound}


@contextmanager
def _locked(
    folder: Path,
    seconds: float,
    progress: LoadProgress,
    state: Callable[[], object] = lambda: None,
) -> Iterator[bool]:
    """Lock a folder among the machine's processes; yield False if another held it too long.

    Args:
        folder: the folder; it is made if it isn't there, or no longer.
        seconds: how long another may hold it while `state` stays the same.
        progress: may stop the wait.
        state: returns something that changes while the other goes on.

    Raises:
        LoadStoppedError: `progress` says so.
        OSError: there can be no such folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        end, had = time.monotonic() + seconds, state()
        while not (alone := try_lock(descriptor)):
            progress.check()
            if time.monotonic() >= end:
                if (has := state()) == had:
                    break
                end, had = time.monotonic() + seconds, has
            # Random each time, so that those that began to wait together don't retry together.
            time.sleep(random.uniform(_LOOK_SECONDS, 2 * _LOOK_SECONDS))  # noqa: S311
        if not alone or _is_at(descriptor, folder):
            yield alone
            return
    finally:
        os.close(descriptor)
    # Another process has deleted the folder that is locked: there is another by now, or none.
    with _locked(folder, seconds, progress, state) as alone:
        yield alone


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _files_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return sizes and times of what a folder has; they change as long as a download advances."""
    found = {}
    with suppress(FileNotFoundError):  # a file may be renamed meanwhile
        for path in folder.rglob("*"):
            status = path.stat()
            found[path] = status.st_size, status.st_mtime_ns
    return found


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
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PART}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
