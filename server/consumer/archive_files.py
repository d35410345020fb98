"""The files of the archive in the bucket: their names, what is in them, and how they lose rows.

A name is `archive/KIND/date=YYYY-MM-DD/hour=HH/PARTITION-SEQUENCE-FINGERPRINT.parquet`: when the
log stored the messages, UTC, and the first of them. `Archiver` may add a number before `.parquet`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vireo.server.consumer.archived_rows import EVENT_ROWS, LAST, Kind, parquet_of
from vireo.server.event_log.log import Entry, Position, fingerprint_of
from vireo.server.releases.bucket import Bucket, StoredObject

ROOT = "archive/"
HOUR = 3600.0
_DAY = 24 * HOUR
_NAME = re.compile(
    rf"{ROOT}\w+/date=(\d{{4}}-\d\d-\d\d)/hour=(\d\d)/(\d+)-(\d{{20}})-[0-9a-f]{{16}}(\.\d+)?\.parquet"
)
_FOLDER = re.compile(r"date=\d{4}-\d\d-\d\d")
_MAX_BYTES = 1 << 30
SETTLE_SECONDS = 5.0
"""Seconds for which slates that were answered before an erasure may come after it."""


@dataclass(frozen=True)
class ArchiveFile:
    """A file of the archive."""

    stored: StoredObject
    hour: datetime
    """When its hour begins."""
    partition: int
    first: int
    """Sequence of its first message."""

    @staticmethod
    def of(stored: StoredObject) -> ArchiveFile | None:
        """Return the file that an object is; None if it is none."""
        found = _NAME.fullmatch(stored.name)
        if found is None:
            return None
        hour = datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00+00:00")
        return ArchiveFile(stored, hour, int(found[3]), int(found[4]))


def hour_of(entry: Entry) -> int:
    """Return the number of the hour in which the log stored a message."""
    return int(entry.stored_at // HOUR)


def names_for(kind: Kind, partition: int, first: Entry) -> tuple[str, str]:
    """Return how the names of all files of a message's hour begin, and of those that it begins."""
    hour = datetime.fromtimestamp(first.stored_at, UTC)
    folder = f"{ROOT}{kind.name}/{hour:date=%Y-%m-%d/hour=%H}/{partition}-"
    return folder, f"{folder}{first.sequence:020}-{fingerprint_of(first.data):016x}"


def files_of(
    bucket: Bucket, kind: str, since: float = 0.0, until: float = math.inf
) -> Iterator[ArchiveFile]:
    """Yield the files of a kind whose hours overlap a time, by name.

    Args:
        bucket: the bucket.
        kind: "slates" or "events".
        since: begin of the time, Unix seconds.
        until: its end.

    Raises:
        StoreError: S3 fails.
    """
    for folder in filter(_FOLDER.fullmatch, bucket.folders(f"{ROOT}{kind}/")):
        date = datetime.fromisoformat(folder.removeprefix("date=")).replace(tzinfo=UTC).timestamp()
        if since - _DAY < date <= until:
            for each in bucket.objects(f"{ROOT}{kind}/{folder}/", recursive=True):
                file = ArchiveFile.of(each)
                if file is not None and since - HOUR < file.hour.timestamp() <= until:
                    yield file


def fetch(
    bucket: Bucket,
    kind: str,
    since: datetime | None,
    folder: Path,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[Path]:
    """Return the files of a kind, by name, once they are in a folder; what is there stays.

    Args:
        bucket: where the archive is.
        kind: "slates" or "events".
        since: files of hours that ended before this are left out; None for all.
        folder: they are in KIND/date=YYYY-MM-DD/hour=HH below it.
        progress: called with the number of files that are there, and that of all.

    Raises:
        StoreError: S3 fails.
    """
    files, paths = [*files_of(bucket, kind, since.timestamp() if since else 0.0)], list[Path]()
    progress(0, len(files))
    for stored in (file.stored for file in files):
        path = folder / stored.name.removeprefix(ROOT)
        there = path.stat() if path.exists() else None
        # An erasure rewrites files.
        if (
            there is None
            or there.st_size != stored.size
            or there.st_mtime < stored.modified.timestamp()
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            with partial.open("wb") as content:
                content.writelines(bucket.read(stored.name))
            partial.replace(path)
        paths.append(path)
        progress(len(paths), len(files))
    return paths


class _Remote(io.RawIOBase):
    """An object of the bucket, of which only what Arrow asks for is read."""

    def __init__(self, bucket: Bucket, stored: StoredObject) -> None:
        self._bucket, self._stored, self._place = bucket, stored, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begins = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._stored.size}
        self._place = begins[whence] + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = self._stored.size - self._place
        size = left if size < 0 else min(size, left)
        content = b"".join(self._bucket.read(self._stored.name, self._place, size)) if size else b""
        self._place += len(content)
        return content


def last_of(bucket: Bucket, file: ArchiveFile) -> Position:
    """Return the position of a file's last message; raise StoreError."""
    return Position.parse(pq.read_metadata(_Remote(bucket, file.stored)).metadata[LAST].decode())


def columns_of(bucket: Bucket, file: ArchiveFile, *columns: str) -> Any:
    """Return some columns of a file, an Arrow table; raise StoreError."""
    return pq.ParquetFile(_Remote(bucket, file.stored)).read(columns=[*columns])


def _without(kind: Kind, table: Any, log: str, ended: float, erased: Mapping[str, Entry]) -> Any:
    """Return a table without the rows that viewers had before they were erased.

    Args:
        kind: what its rows are.
        table: rows, from messages of one log.
        log: that log; see `Position.log`.
        ended: when their hour ended, by the log's clock, Unix seconds.
        erased: the message that erases each viewer.
    """
    for viewer in erased.keys() & set(table["viewer_id"].unique().to_pylist()):
        entry = erased[viewer]
        # A slate and an erasure are in different streams: only their times say which was first.
        until = entry.stored_at + (0 if kind is EVENT_ROWS else SETTLE_SECONDS)
        at = pa.scalar(round(until * 1e6), pa.timestamp("us", "UTC"))
        # All of an hour that had ended, whatever the clock of a gateway said.
        before = pc.or_(pc.less_equal(table[kind.time], at), pa.scalar(ended <= entry.stored_at))
        if kind is EVENT_ROWS and log == entry.log:
            before = pc.or_(before, pc.less(table["sequence"], entry.sequence))
        table = table.filter(pc.invert(pc.and_(pc.equal(table["viewer_id"], viewer), before)))
    return table


def remove_until(bucket: Bucket, kind: str, until: float) -> None:
    """Remove the files of a kind whose hours began up to a time, Unix seconds."""
    for file in files_of(bucket, kind, until=until):
        bucket.remove(file.stored.name)


def files_to_search(bucket: Bucket, kind: Kind, erased: Mapping[str, Entry]) -> list[ArchiveFile]:
    """Return the files that may have rows to erase, those of a log with other partitions too."""
    until = max(entry.stored_at for entry in erased.values()) + SETTLE_SECONDS
    return [*files_of(bucket, kind.name, until=until)]


def erase(bucket: Bucket, kind: Kind, erased: Mapping[str, Entry], file: ArchiveFile) -> None:
    """Rewrite a file without what viewers had before they were erased.

    A file without rows stays: its position is still needed.

    Raises:
        StoreError: S3 fails; repeat it.
    """
    viewers = pa.array([*erased], pa.string())
    found = columns_of(bucket, file, "viewer_id")["viewer_id"]
    if not pc.any(pc.is_in(found, viewers)).as_py():
        return
    name = file.stored.name
    while (stored := bucket.get(name, _MAX_BYTES)) is not None:  # else it has just expired
        content, etag = stored
        whole = pq.read_table(pa.BufferReader(content))
        last = Position.parse(whole.schema.metadata[LAST].decode())
        left = _without(kind, whole, last.log, file.hour.timestamp() + HOUR, erased)
        if len(left) == len(whole) or bucket.swap(name, parquet_of(kind, left, last), etag):
            return
