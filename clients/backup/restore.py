"""Brings a backup back."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from clients.backup.archive import Archive, Manifest, Tombstone
from clients.backup.streams import restore_stream
from clients.backup.take import RULES, STORE_SECONDS, STREAMS, Say, note, parts_of
from clients.cli.viewers import erase_again
from server.consumer.fold import ViewerEvents, ViewerRow, fold
from server.consumer.rows import VIEWERS_AT_A_TIME, OnlineRows
from server.errors import VireoError
from server.event_log.jetstream import JetStreamLog
from server.event_log.log import Stream
from server.event_log.open import open_log
from server.event_log.settings import EventLogSettings
from server.features.online_store import CONFIGURATION
from server.home import Home
from server.releases.bucket import Bucket
from server.releases.manifest import FileEntry
from server.security.folder import SecurityFolder
from training.data.dataset import DESCRIPTION
from training.features.build import build_features

Existing = Literal["refuse", "keep", "overwrite"]
T = TypeVar("T")

_AHEAD_SECONDS = 600
"""By how much the time of a hide may be ahead of when it was recorded."""


@dataclass(frozen=True)
class Restore:
    """What a backup brings back; what is there already is refused, kept or replaced."""

    manifest: Manifest
    archive: Archive
    home: Home
    bucket: Bucket
    log: EventLogSettings
    existing: Existing

    @cached_property
    def tombstones(self) -> dict[str, Tombstone]:
        """Those of all viewers who were ever erased, by name."""
        return self.archive.tombstones()

    @cached_property
    def erased(self) -> list[Tombstone]:
        """Viewers of whom the backup may have something, though they were erased since."""
        known = self.manifest.erased
        return [each for name, each in self.tombstones.items() if name not in known]

    @cached_property
    def there(self) -> set[str]:
        """Files of the backup that are there already, whatever they contain."""
        objects = self.bucket.objects("", recursive=True) if self.bucket.exists() else []
        names = {f"bucket/{each.name}" for each in objects}
        streams = {f"log/{each.name}" for each in self._with_log(_nonempty)}
        return {
            path
            for path in self.manifest.files
            if path in names
            or path.rpartition("/")[0] in streams
            or ((target := self._path(path)) and target.exists())
        }

    def plan(self) -> Iterator[str]:
        """Yield a line for each folder and stream to restore, and for what follows.

        Raises:
            VireoError: the log has another number of partitions.
        """
        files, partitions = self.manifest.files, self.manifest.partitions
        if self.log.event_partitions != partitions:
            raise VireoError(f"set VIREO_EVENT_PARTITIONS={partitions}, as the backup has")
        yield f"backup {self.manifest.name}, all from before {self.manifest.began:%F %T} UTC"
        folders = defaultdict[str, list[str]](list)
        for path in files:
            folders["/".join(path.split("/")[:-1][:3]) or path].append(path)
        for folder, paths in folders.items():
            there = len(self.there & {*paths})
            found = f"; there already, {self.existing}: {there}" if there else ""
            size = sum(files[path].size for path in paths) / 1e6
            yield f"{folder}: {len(paths)} files, {size:,.1f} MB{found}"
        yield f"viewers to erase again: {len(self.erased)}"
        yield f"features to build: {', '.join(self._unbuilt()) or 'none'}"

    def run(self, say: Say) -> None:
        """Restore files and releases, the log, features, and last what channels name.

        Raises:
            VireoError: something is there already, or can't be read or written.
        """
        if self.there and self.existing == "refuse":
            raise VireoError(
                f"{len(self.there)} of its files are there already, such as {min(self.there)}; to "
                "go on with an interrupted restore, or restore what is missing: --existing keep; "
                "to replace them: --existing overwrite"
            )
        self.bucket.make()
        keep = self.there if self.existing == "keep" else set()
        wanted = {path: each for path, each in self.manifest.files.items() if path not in keep}
        channels = {
            path: each for path, each in wanted.items() if path.startswith("bucket/channels/")
        }
        for path, stored in wanted.items():
            if path not in channels and not path.startswith(("log/", "hides/")):
                self._restore(path, stored)
        self._link_certificates()
        say("files and releases: restored")
        self._with_log(lambda log: self._restore_streams(log, say))
        erase_again(self.home, self.log, self.erased)
        for name in self._unbuilt():
            say(f"features of {name}: building")
            build_features(self.home, name, "none")
        for path, stored in self.manifest.files.items():
            if path.startswith("hides/"):
                self._hide(self.home.features(path.removeprefix("hides/")), stored)
        for path, stored in channels.items():
            self._restore(path, stored)
        note(self.bucket, self.manifest)

    def _path(self, path: str) -> Path | None:
        """Return where a file of the home, or the rules, is restored to; None for others."""
        if path == RULES:
            return Path(os.environ.get("VIREO_RULES") or self.home.root / "rules.toml")
        place, _, below = path.partition("/")
        return self.home.root / below if place == "home" else None

    def _restore(self, path: str, stored: FileEntry) -> None:
        if target := self._path(path):
            fresh = target.with_name(f"{target.name}.new")
            self.archive.fetch(stored, fresh).replace(target)
        else:
            copy = self.archive.fetch(stored, self.archive.scratch / "object")
            self.bucket.put_file(path.removeprefix("bucket/"), copy)

    def _link_certificates(self) -> None:
        """Have the link that says which certificates are in use point to the latest."""
        folder = SecurityFolder(self.home.security)
        made = sorted(folder.certificates.glob("2*T*"))
        if made and not folder.current.exists():
            folder.current.symlink_to(made[-1].name)

    async def _restore_streams(self, log: JetStreamLog, say: Say) -> None:
        backup, anew = self.manifest.name, self.existing == "overwrite"
        for stream in STREAMS:
            parts = [part for _, part in parts_of(self.manifest, stream.name)]
            if anew or not await log.end(stream) or await log.restored_from(stream) == backup:
                was = self.manifest.positions[stream.name].log
                await restore_stream(log, stream, self.archive, parts, was, backup, anew=anew)
                say(f"log: {stream.name} restored")

    def _unbuilt(self) -> list[str]:
        """Return the data sets whose features are to be built."""
        found = (path.split("/") for path in self.manifest.files if path.startswith("home/data/"))
        names = [parts[2] for parts in found if parts[3:] == [DESCRIPTION]]
        anew = self.existing == "overwrite"
        return [n for n in names if anew or not (self.home.features(n) / CONFIGURATION).exists()]

    def _hide(self, repo: Path, stored: FileEntry) -> None:
        """Hide what was hidden, except by viewers who were erased since."""
        erased = {each.viewer: each.at / 1e9 + _AHEAD_SECONDS for each in self.tombstones.values()}
        rows = OnlineRows(repo, STORE_SECONDS)
        try:
            with gzip.open(self.archive.fetch(stored, self.archive.scratch / "hides")) as file:
                lines = map(json.loads, file)
                while some := dict(islice(lines, VIEWERS_AT_A_TIME)):
                    changes = {}
                    for (viewer, times), row in zip(
                        some.items(), rows.read(list(some)), strict=True
                    ):
                        since = erased.get(viewer, 0)
                        hides = {int(key): at for key, at in times.items() if at > since}
                        if hides and isinstance(row, ViewerRow):
                            changes[viewer] = fold(row, ViewerEvents(hides=hides))
                    rows.write(changes)
        finally:
            rows.close()

    def _with_log(self, work: Callable[[JetStreamLog], Awaitable[T]]) -> T:
        async def run() -> T:
            event_log = open_log(self.log, read_only=True)
            assert event_log is not None, "the settings name it"
            try:
                return await work(event_log)
            finally:
                await event_log.close()

        return asyncio.run(run())


async def _nonempty(log: JetStreamLog) -> list[Stream]:
    return [each for each in STREAMS if await log.end(each)]
