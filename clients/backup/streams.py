"""The log's streams in a backup: parts of some megabytes, each with messages one after another."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Iterable, Iterator

from clients.backup.archive import Archive, Tombstone
from server.event_log.jetstream import JetStreamLog
from server.event_log.log import EVENTS, Stream
from server.event_log.position import BEGIN, Position
from server.event_log.up_to_end import up_to_end
from server.releases.manifest import FileEntry

_HEAD = struct.Struct(">QHI")
"""Sequence, bytes of the key, and bytes of the message, which follow."""
_PART_BYTES = 32 << 20
_AT_A_TIME = 256
"""Messages that are appended at a time; the server refuses those that come out of order."""


async def copy_stream(
    event_log: JetStreamLog,
    stream: Stream,
    archive: Archive,
    before: tuple[dict[int, FileEntry], Position],
) -> tuple[dict[int, FileEntry], Position]:
    """Store what a stream has; return the parts by their last sequence, and the position after it.

    Of events only those are read that came after the copy `before`, if that was of the same log.
    """
    parts, position = dict[int, FileEntry](), BEGIN
    same = stream is EVENTS and await event_log.resume(stream, before[1])
    if same and same.after == before[1].sequence:
        gone = (await event_log.resume(stream, BEGIN)).missing
        parts = {last: part for last, part in before[0].items() if last >= gone.stop}
        position = before[1]
    held, size = list[bytes](), 0
    async for entries in up_to_end(event_log, stream, after=position):
        for entry in entries:
            key = entry.key.encode()
            held += _HEAD.pack(entry.sequence, len(key), len(entry.data)), key, entry.data
            size += len(entry.data)
            for tombstone in Tombstone.of(entry.data) if stream is EVENTS else ():
                await asyncio.to_thread(tombstone.write, archive.bucket)
            position = entry.position
        if held and (size >= _PART_BYTES or not entries):
            parts[position.sequence] = await asyncio.to_thread(_store, archive, held)
            held, size = [], 0
    if held:
        parts[position.sequence] = await asyncio.to_thread(_store, archive, held)
    return parts, position


def _store(archive: Archive, held: list[bytes]) -> FileEntry:
    path = archive.scratch / "part"
    path.write_bytes(gzip.compress(b"".join(held), 1, mtime=0))  # equal content is one object
    return archive.put(path)


async def restore_stream(
    event_log: JetStreamLog,
    stream: Stream,
    archive: Archive,
    parts: Iterable[FileEntry],
    log: str,
    backup: str,
    *,
    anew: bool,
) -> None:
    """Append messages to a stream made for them: that of an interrupted restore unless `anew`.

    Events keep their sequences, so that positions in their `log` hold; other messages don't.
    """
    messages = _messages(archive, parts)
    found = next(messages, None)
    first = found[0] if found and stream is EVENTS else 1
    if anew or await event_log.restored_from(stream) != backup:
        await event_log.replace(stream, backup, first, log if stream is EVENTS else "")
    there, last, pending = await event_log.end(stream), first - 1, []
    while found is not None:
        sequence, key, data = found
        gap = stream is EVENTS and last + 1 < sequence
        if last >= there:
            pending.append(event_log.append(stream, key, b"" if gap else data, after=last))
        last += 1
        found = found if gap else next(messages, None)
        if len(pending) == _AT_A_TIME or found is None:
            await asyncio.gather(*pending)
            pending.clear()


def _messages(archive: Archive, parts: Iterable[FileEntry]) -> Iterator[tuple[int, str, bytes]]:
    for part in parts:
        with gzip.open(archive.fetch(part, archive.scratch / "part")) as file:
            while head := file.read(_HEAD.size):
                sequence, key_size, size = _HEAD.unpack(head)
                yield sequence, file.read(key_size).decode(), file.read(size)
