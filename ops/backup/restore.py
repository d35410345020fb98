"""Brings a backup back."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import typer

from vireo.ops.backup.archive import ERASED, Archive, Manifest, parse_tombstone
from vireo.ops.backup.take import RULES, STORE_SECONDS, STREAMS, note
from vireo.server.consumer.apply import hide
from vireo.server.event_log.jetstream import opened_log
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.online_store import open_rows
from vireo.server.home import Home
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.manifest import FileEntry
from vireo.server.security.folder import SecurityFolder
from vireo.training.data.dataset import DESCRIPTION
from vireo.training.features.build import build_features


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
        note(self.bucket, self.manifest)

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
            return {path for path, stream in STREAMS.items() if await log.end(stream)}

    async def _restore_log(self) -> None:
        async with opened_log(self.log, read_only=True) as log:
            for path, stream in STREAMS.items():
                if stored := self.manifest.files.get(path):
                    copy = await asyncio.to_thread(self.archive.fetch, stored)
                    with copy.open("rb") as file:
                        await log.restore(stream, file)

    def _hide(self, repo: Path, stored: FileEntry) -> None:
        """Hide what was hidden, except by viewers who were erased since."""
        with (
            closing(open_rows(repo, STORE_SECONDS)) as rows,
            gzip.open(self.archive.fetch(stored)) as file,
        ):
            found = map(json.loads, file)
            hides = ((who, dict(times), True) for who, times in found if who not in self.erased)
            hide(rows, hides)
