"""What a backup has: taken while everything serves, and brought back."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import typer
from google.protobuf.message import DecodeError

from vireo.ops.backup.archive import (
    ERASED,
    Archive,
    Manifest,
    parse_tombstone,
    store_tombstone,
)
from vireo.server.consumer.apply import keep
from vireo.server.control.channels import MARKER
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import opened_log
from vireo.server.event_log.log import BEGIN, CATALOG, DEAD, EVENTS, REMOVED, STATE, Position
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.online_store import CONFIGURATION, open_rows
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.home import Home
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.manifest import MANIFEST_NAME, FileEntry
from vireo.server.releases.store import (
    ReleaseStore,
    manifest_place,
    needed_releases,
    release_object,
)
from vireo.server.security.folder import SecurityFolder
from vireo.training.data.dataset import DESCRIPTION
from vireo.training.features.build import build_features
from vireo.v1.log_pb2 import RecordedEvents

RULES = "home/rules.toml"
"""The file that VIREO_RULES names, in a backup."""
_STREAMS = {f"log/{each.name}": each for each in (STATE, DEAD, CATALOG, REMOVED, EVENTS)}
"""In this order, so that what a stream says of a later one is in that one's copy, too."""
_STORE_SECONDS = 60.0
"""Maximum seconds to wait for the online store."""
_Files = dict[str, FileEntry]


def take_backup(
    home: Home, store: ReleaseStore, log: EventLogSettings, archive: Archive
) -> Manifest:
    """Make a backup, complete it, and note it in the bucket of releases.

    Raises:
        VireoError: something can't be read or stored. Repeat it: what was stored stays.
    """
    began = datetime.now(UTC)
    archive.bucket.make()
    archive.scratch.write_text("\n".join(archive.tombstones()))
    erased = {ERASED: archive.put(archive.scratch)}
    before = archive.manifest("") if archive.names() else None
    known = before.files if before else {}
    channels: _Files | None = None
    # They may change while the releases that they name are copied.
    while channels != (channels := _objects(archive, store.bucket, "channels/")):
        files, datasets = _releases(store, archive, known)
    typer.echo(f"{len(channels)} objects of channels, {len(files)} of releases")
    paths = {"home/security": home.security}
    paths |= {f"home/data/{name}": home.data(name) for name in datasets}
    if rules := os.environ.get("VIREO_RULES"):
        paths[RULES] = Path(rules)
    for name, root in paths.items():
        if root.exists() or name == RULES or datasets.get(root.name):
            files |= _files(archive, name, root)
    for name in datasets:
        if (home.features(name) / CONFIGURATION).exists():
            files[f"hides/{name}"] = _hides(archive, home.features(name))
    typer.echo(f"{home.root}: data sets {', '.join(datasets)}, hides, keys and rules")
    position = asyncio.run(_log(log, archive, files, before.position if before else BEGIN))
    typer.echo(f"log: events up to {position.sequence:,}")
    manifest = Manifest(
        name=f"{began:%Y%m%dT%H%M%S%fZ}",
        began=began,
        build=version("vireo"),
        files={**erased, **files, **channels},
        position=position,
    )
    archive.finish(manifest)
    _note(store.bucket, manifest)
    return manifest


def _note(bucket: Bucket, manifest: Manifest) -> None:
    """Note in the bucket of releases when the last backup began."""
    found = bucket.get(MARKER)
    bucket.swap(MARKER, manifest.began.isoformat().encode(), found[1] if found else None)


def _objects(archive: Archive, bucket: Bucket, prefix: str) -> _Files:
    """Store the objects below a prefix; the manifest of a release comes last: it makes one."""
    names = [each.name for each in bucket.objects(prefix, recursive=True)]
    names.sort(key=lambda name: name == f"{prefix}{MANIFEST_NAME}")
    return {f"bucket/{name}": archive.put_object(bucket, name) for name in names}


def _releases(
    store: ReleaseStore, archive: Archive, known: _Files
) -> tuple[_Files, dict[str, bool]]:
    """Store the releases that channels need, and return whether a channel names each data set's.

    What a backup of before has of one isn't read again.
    """
    files, datasets = _Files(), dict[str, bool]()
    named = {channel.release_id for channel in store.channels.all().values()}
    for release_id in needed_releases(store):
        store.check_published(release_id)
        dataset, place = store.dataset(release_id), f"bucket/{manifest_place(release_id)}"
        datasets[dataset] = datasets.get(dataset, False) or release_id in named
        folder = release_object(release_id, "")
        found = {path: each for path, each in known.items() if path.startswith(f"bucket/{folder}")}
        if found.get(place) != archive.put_object(store.bucket, manifest_place(release_id)):
            found = _objects(archive, store.bucket, folder)
        files |= found
    return files, datasets


def _files(archive: Archive, name: str, root: Path) -> _Files:
    """Store a file, or those of a folder; raise VireoError if it is missing or is replaced."""
    try:
        before = root.stat().st_ino
        # The description last: it makes a data set.
        paths = sorted(root.rglob("*"), key=lambda each: (each.name == DESCRIPTION, each))
        files = {
            f"{name}/{path.relative_to(root)}": archive.put(path)
            for path in paths
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".new"
        }
        if root.stat().st_ino == before:
            return files if root.is_dir() else {name: archive.put(root)}
    except FileNotFoundError as error:
        raise VireoError(f"{error.filename} is missing; run vireo backup where it is") from error
    raise VireoError(f"{root} was replaced while it was read; repeat this")


def _hides(archive: Archive, repo: Path) -> FileEntry:
    """Store what viewers have hidden and follow, as JSON lines: viewer, and keys with times."""
    with closing(open_rows(repo, _STORE_SECONDS)) as rows:
        # Equal content is one object: without the time.
        with gzip.GzipFile(archive.scratch, "wb", 1, mtime=0) as file:
            for viewer, row in rows.kept():
                times = [[*each.items()] for each in (row.hides, row.followed)]
                file.write(json.dumps((viewer, *times)).encode() + b"\n")
        if rows.superseded():
            raise VireoError("features were built while hides were read; repeat this")
    return archive.put(archive.scratch)


async def _log(
    settings: EventLogSettings, archive: Archive, files: _Files, read: Position
) -> Position:
    """Add the streams to `files`, and write tombstones of who was erased since a position.

    Return the position after the last event that was read.
    """
    async with opened_log(settings, read_only=True) as event_log:
        for path, stream in _STREAMS.items():
            if await event_log.end(stream):
                with archive.scratch.open("wb") as file:
                    await event_log.save(stream, file)
                files[path] = await asyncio.to_thread(archive.put, archive.scratch)
        if f"log/{EVENTS.name}" in files:
            async for entries in event_log.up_to_end(EVENTS, after=read):
                for viewer, at in (each for entry in entries for each in _erased(entry.data)):
                    await asyncio.to_thread(store_tombstone, archive.bucket, viewer, at)
                read = entries.position
    return read


def _erased(recorded: bytes) -> list[tuple[str, int]]:
    """Return who is erased by a message, and when, Unix nanoseconds."""
    try:
        message = RecordedEvents.FromString(recorded)
    except DecodeError:  # consumers set it aside
        return []
    return [(viewer, message.received_at.ToNanoseconds()) for viewer in message.erased]


@dataclass(frozen=True)
class Restore:
    """What a backup brings back, and to where."""

    manifest: Manifest
    archive: Archive
    home: Home
    bucket: Bucket
    log: EventLogSettings

    @cached_property
    def erased(self) -> dict[str, int]:
        """Viewers of whom the backup may have something, though they were erased since: when."""
        known = self.archive.fetch(self.manifest.files[ERASED]).read_text().split()
        return dict(map(parse_tombstone, sorted({*self.archive.tombstones()} - {*known})))

    @cached_property
    def there(self) -> set[str]:
        """Files of the backup that are there already, whatever they contain."""
        objects = self.bucket.objects("", recursive=True) if self.bucket.exists() else []
        found = {f"bucket/{each.name}" for each in objects} | asyncio.run(self._streams())
        home = (path for path in self.manifest.files if path.startswith("home/"))
        found |= {path for path in home if self._path(path).exists()}
        return found & {*self.manifest.files}

    def plan(self) -> Iterator[str]:
        """Yield a line for each folder and stream to restore, and for what follows."""
        yield f"backup {self.manifest.name}, all from before {self.manifest.began:%F %T} UTC"
        files = self.manifest.files
        for folder, some in groupby(sorted(files), lambda path: "/".join(path.split("/")[:3])):
            paths = {*some}
            size, there = sum(files[path].size for path in paths), len(self.there & paths)
            yield f"{folder}: {len(paths)} files, {size / 1e6:,.1f} MB; there already: {there}"
        yield f"viewers to erase again: {len(self.erased)}"
        yield f"features to build: {', '.join(self._datasets)}"

    def run(self, erase: Callable[[Home, EventLogSettings, Mapping[str, int]], None]) -> None:
        """Restore files and releases, the log, features, and last what channels name.

        Whatever is there already is replaced, so it may be repeated.

        Args:
            erase: erases viewers anew, by when they were erased, from the log and the data sets.

        Raises:
            VireoError: something can't be read or written.
        """
        self.bucket.make()
        files = self.manifest.files
        channels = [path for path in files if path.startswith("bucket/channels/")]
        for path in files:
            if path not in channels and path.startswith(("home/", "bucket/")):
                self._restore(path)
        self._link_certificates()
        typer.echo("files and releases: restored")
        asyncio.run(self._restore_log())
        typer.echo("log: restored")
        if self.erased:
            erase(self.home, self.log, self.erased)
        for name in self._datasets:
            typer.echo(f"features of {name}: building")
            build_features(self.home, name, "none")
        for path, stored in files.items():
            if path.startswith("hides/"):
                self._hide(self.home.features(path.removeprefix("hides/")), stored)
        for path in channels:
            self._restore(path)
        _note(self.bucket, self.manifest)

    @property
    def _datasets(self) -> list[str]:
        found = (Path(path) for path in self.manifest.files if path.startswith("home/data/"))
        return [path.parent.name for path in found if path.name == DESCRIPTION]

    def _path(self, path: str) -> Path:
        """Return where a file below `home` is restored to."""
        rules = os.environ.get("VIREO_RULES") if path == RULES else ""
        return Path(rules or self.home.root / path.removeprefix("home/"))

    def _restore(self, path: str) -> None:
        stored, target = self.manifest.files[path], self._path(path)
        if path.startswith("bucket/"):
            self.bucket.put_file(path.removeprefix("bucket/"), self.archive.fetch(stored))
        else:
            self.archive.fetch(stored, target.with_name(f"{target.name}.new")).replace(target)

    def _link_certificates(self) -> None:
        """Have the link that says which certificates are in use point to the latest."""
        folder = SecurityFolder(self.home.security)
        made = sorted(folder.certificates.glob("2*T*"))
        if made and not folder.current.exists():
            folder.current.symlink_to(made[-1].name)

    async def _streams(self) -> set[str]:
        """Return the streams in which there is anything."""
        async with opened_log(self.log, read_only=True) as log:
            return {path for path, stream in _STREAMS.items() if await log.end(stream)}

    async def _restore_log(self) -> None:
        async with opened_log(self.log, read_only=True) as log:
            for path, stream in _STREAMS.items():
                if stored := self.manifest.files.get(path):
                    copy = await asyncio.to_thread(self.archive.fetch, stored)
                    with copy.open("rb") as file:
                        await log.restore(stream, file)

    def _hide(self, repo: Path, stored: FileEntry) -> None:
        """Hide and follow what viewers did, except for those who were erased since."""
        with (
            closing(open_rows(repo, _STORE_SECONDS)) as rows,
            gzip.open(self.archive.fetch(stored)) as file,
        ):
            # Backups of earlier builds have no follows.
            found = ((who, *map(dict, times)) for who, *times in map(json.loads, file))
            keep(
                rows,
                (
                    (who, ViewerRow(hides=hides, followed=dict(*followed)), True)
                    for who, hides, *followed in found
                    if who not in self.erased
                ),
            )
