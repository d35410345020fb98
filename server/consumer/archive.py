"""Archives slates and events: the log's messages as Parquet files in the bucket of releases.

Each row is stored once, whatever is restarted or lost and however many consumers there are: a
file's name follows from its first message, it is created only if it isn't there, and it says which
messages it has. So the bucket decides; the position in STATE only says where to begin to look.

If the log lost its last messages and others have their sequences now, a file's position doesn't
hold any more. What is new is stored beside it, with a number in the name if both begin alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa
import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Gauge

from vireo.server.backoff import backoff
from vireo.server.consumer.archive_files import (
    HOUR,
    SETTLE_SECONDS,
    ArchiveFile,
    columns_of,
    erase,
    files_to_search,
    hour_of,
    last_of,
    names_for,
    remove_until,
)
from vireo.server.consumer.archived_rows import (
    KINDS,
    Kind,
    parquet_of,
    table_of,
)
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import (
    ARCHIVED,
    BEGIN,
    SLATES,
    STATE,
    Entry,
    Position,
)
from vireo.server.releases.bucket import Bucket, StoreError
from vireo.v1.log_pb2 import RecordedEvents

log = structlog.get_logger()

ROWS = Counter("vireo_archive_rows", "Rows that were archived.", ["kind"])
FILES = Counter("vireo_archive_files", "Files of the archive that were stored.", ["kind"])
FAILURES = Counter("vireo_archive_failures", "Attempts to archive that failed.", ["kind"])
SKIPPED = Counter(
    "vireo_archive_skipped",
    "What was left out of the archive: unreadable, messages that can't be parsed; unfit, slates "
    "and events that can't be rows.",
    ["reason"],
)
for _reason in ("unreadable", "unfit"):  # so that each is exported as 0
    SKIPPED.labels(_reason)
LAG = Gauge(
    "vireo_archive_lag_seconds",
    "Age of the oldest message that was read but isn't archived yet, 0 if there is none.",
    ["kind"],
)

MAX_FILE_BYTES = 16 << 20
"""Bytes of messages after which a file is written."""
_IDLE_SECONDS = 600.0
"""Seconds after which the position is published though nothing was archived: else messages of other
partitions would seem to be missed once the log keeps them no longer."""
_MIN_PAUSE, _MAX_PAUSE = 0.5, 60.0
"""Seconds to wait after a failure: twice as long each time."""


class Archiver:
    """Archives one partition of a stream. Use it from one event loop."""

    def __init__(
        self,
        event_log: JetStreamLog,
        bucket: Bucket,
        partition: int,
        kind: Kind,
        *,
        seconds: float,
        retention: float,
        slates: Archiver | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            event_log: the log.
            bucket: where files are stored.
            partition: the partition.
            kind: what is archived.
            seconds: maximum seconds for which a message waits for others.
            retention: seconds for which files of the kind are kept, whatever their partition; older
                messages aren't archived.
            slates: for events, an archiver of the partition's slates, which erasures concern too;
                it doesn't run.
        """
        self._log, self._bucket, self._kind, self._partition = event_log, bucket, kind, partition
        self._seconds, self._retention, self._slates = seconds, retention, slates
        self._hint = f"{ARCHIVED}{kind.name}.{partition}"
        """Key of the position in STATE."""
        self._collected = list[Entry]()
        """Messages that were read and aren't archived yet."""
        self._read, self._published = BEGIN, BEGIN
        """Positions up to which messages were read, and that STATE has by this archiver."""
        self._lasts = dict[str, Position]()
        """Position of the last message of each file of one hour, by name."""
        self._expires = 0.0
        """When files are to be removed next, Unix seconds."""
        for each in (ROWS, FILES, FAILURES):  # so that it is exported as 0
            each.labels(kind.name)

    async def run(self) -> None:
        """Archive until cancelled."""
        LAG.labels(self._kind.name).set_function(self._lag)
        await self._retried(self._restore)
        while True:
            await self._retried(self._collect)
            await self._retried(self._archive)
            await self._expire()

    async def archive_to_end(self) -> None:
        """Archive all that the stream has now, beside whoever else does.

        Raises:
            StoreError, LogAwayError: call it again.
        """
        stream, key = self._kind.stream, str(self._partition)
        async for entries in self._log.up_to_end(stream, key, self._read):
            self._read = entries.position
            self._collected += entries
            if sum(len(entry.data) for entry in self._collected) >= MAX_FILE_BYTES:
                await self._archive()
        await self._archive()

    def _lag(self) -> float:
        return max(0.0, time.time() - self._collected[0].stored_at) if self._collected else 0.0

    async def _retried(self, work: Callable[[], Awaitable[None]]) -> None:
        """Return as soon as some work succeeds."""
        failures, problem = 0, ""
        while True:
            try:
                return await work()
            except Exception as error:  # features go on, whatever it is
                failures += 1
                FAILURES.labels(self._kind.name).inc()
                if str(error) != problem:
                    log.warning(
                        "archiving has failed, and is tried again",
                        kind=self._kind.name,
                        reason=str(error),
                        exc_info=not isinstance(error, VireoError),
                    )
                problem = str(error)
            await asyncio.sleep(backoff(failures, _MIN_PAUSE, _MAX_PAUSE))

    async def _restore(self) -> None:
        """Begin at the position in STATE.

        It is published again later, as slates may have to be deleted up to it.
        """
        async for entries in self._log.up_to_end(STATE, self._hint):
            for entry in entries:
                with suppress(ValueError):
                    self._read = Position.parse(entry.data.decode())

    async def _expire(self) -> None:
        """Remove the files that are too old, once an hour."""
        now = time.time()
        if now >= self._expires:
            until, self._expires = now - self._retention - HOUR, now + HOUR
            try:
                await asyncio.to_thread(remove_until, self._bucket, self._kind.name, until)
            except StoreError as error:  # new files go on
                FAILURES.labels(self._kind.name).inc()
                log.warning("old files of the archive can't be removed", reason=str(error))

    async def _collect(self) -> None:
        """Read until a file is due."""
        size, loop = 0, asyncio.get_running_loop()
        read = self._log.read(self._kind.stream, str(self._partition), self._read)
        wait = self._seconds if self._collected else _IDLE_SECONDS
        try:
            async with asyncio.timeout(wait) as due, aclosing(read) as some:
                async for entries in some:
                    if entries and not self._collected:
                        due.reschedule(loop.time() + self._seconds)
                    runs = [*_runs([*self._collected[:1], *entries])]
                    self._read = entries.position
                    self._collected += entries
                    size += sum(len(entry.data) for entry in entries)
                    if size >= MAX_FILE_BYTES or len(runs) > 1:
                        break
                    if self._slates is None:
                        continue
                    if await asyncio.to_thread(erasures, entries):
                        # Others may follow, and one pass over the files is enough for all.
                        soon = loop.time() + SETTLE_SECONDS
                        due.reschedule(min(soon, due.when() or soon))
        except TimeoutError:
            pass

    async def _archive(self) -> None:
        """Store what was collected, and publish up to where that is."""
        for run in _runs(self._collected):
            await self._store(run)
        if self._slates is not None:
            erased = await asyncio.to_thread(erasures, self._collected)
            if erased:
                await self._erase(self._slates, erased)
        self._collected.clear()
        if self._read != self._published:
            await self._log.append(STATE, self._hint, str(self._read).encode())
            self._published = self._read
            if self._kind.stream.consumed:
                await self._log.purge(self._kind.stream, str(self._partition), self._read)

    async def _store(self, run: Sequence[Entry]) -> None:
        """Store those of some messages of one hour that no file has."""
        while run and (hour_of(run[0]) + 1) * HOUR > time.time() - self._retention:
            taken, lost = set[str](), list[ArchiveFile]()
            for file, last in await asyncio.to_thread(self._files_beside, run[0]):
                taken.add(file.stored.name)
                if file.first > run[-1].sequence or last.sequence < run[0].sequence:
                    continue
                stream, key = self._kind.stream, str(self._partition)
                if (await self._log.resume(stream, last, key)).after == last.sequence:
                    has = range(file.first, last.sequence + 1)
                    run = [entry for entry in run if entry.sequence not in has]
                    if not run:
                        return
                else:
                    lost.append(file)
            if await asyncio.to_thread(self._create, run, taken, lost):
                return

    def _files_beside(self, first: Entry) -> list[tuple[ArchiveFile, Position]]:
        """Return the files of the hour of a message, each with the position of its last message."""
        folder, _ = names_for(self._kind, self._partition, first)
        files = [*filter(None, map(ArchiveFile.of, self._bucket.objects(folder)))]
        self._lasts = {
            file.stored.name: self._lasts.get(file.stored.name) or last_of(self._bucket, file)
            for file in files
        }
        return [(file, self._lasts[file.stored.name]) for file in files]

    def _create(self, run: Sequence[Entry], taken: set[str], lost: Sequence[ArchiveFile]) -> bool:
        """Create a file; return False if another archiver was faster.

        Args:
            run: its messages.
            taken: names of files that are there.
            lost: files of a log that has other messages since, some of which may be the same.
        """
        kind = self._kind
        table, skipped = table_of(kind, run)
        for file in lost:
            has = {*_identities(kind, columns_of(self._bucket, file, *kind.identity))}
            new = [each not in has for each in _identities(kind, table)]
            table = table.filter(pa.array(new, pa.bool_()))
        # Without rows too: the file says that its messages are archived.
        _, name = names_for(kind, self._partition, run[0])
        names = (f"{name}{f'.{number}' if number else ''}.parquet" for number in count())
        free = next(each for each in names if each not in taken)
        if self._bucket.swap(free, parquet_of(kind, table, run[-1].position), None) is None:
            return False
        FILES.labels(kind.name).inc()
        ROWS.labels(kind.name).inc(len(table))
        for reason, number in skipped.items():
            SKIPPED.labels(reason).inc(number)
            log.warning(
                "left out of the archive",
                kind=kind.name,
                reason=reason,
                number=number,
                positions=f"{run[0].sequence} to {run[-1].sequence}",
            )
        return True

    async def _erase(self, slates: Archiver, erased: Mapping[str, Entry]) -> None:
        """Remove what viewers had before they were erased from all files."""
        settled = max(entry.stored_at for entry in erased.values()) + SETTLE_SECONDS
        # The log's clock may be another one.
        await asyncio.sleep(min(SETTLE_SECONDS, max(0.0, settled - time.time())))
        if await self._log.end(SLATES, str(self._partition)):
            await slates.archive_to_end()
        bucket, thread = self._bucket, asyncio.to_thread
        for kind in KINDS.values():
            # One at a time: a file is held in memory, and so are features in this process.
            for file in await thread(files_to_search, bucket, kind, erased):
                await self._retried(partial(thread, erase, bucket, kind, erased, file))
        log.info("erased from the archive", viewers=len(erased))


def erasures(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return the last message of stream EVENTS that erases each viewer."""
    erased = dict[str, Entry]()
    for entry in entries:
        with suppress(DecodeError):
            erased |= dict.fromkeys(RecordedEvents.FromString(entry.data).erased, entry)
    return erased


def _identities(kind: Kind, table: Any) -> Iterator[tuple[str, ...]]:
    """Yield what each row is known by."""
    return zip(*(table[name].to_pylist() for name in kind.identity), strict=True)


def _runs(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield messages that may be in one file: of one hour and one log, in order."""
    run = list[Entry]()
    for entry in entries:
        if run and not (
            entry.log == run[-1].log
            and entry.sequence > run[-1].sequence
            and hour_of(entry) == hour_of(run[-1])
        ):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run
