"""The log as NATS JetStream streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO

import structlog
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import APIError, NotFoundError
from prometheus_client import Counter

from vireo.server.errors import VireoError
from vireo.server.event_log.connection import CONNECTED, Connection, pull
from vireo.server.event_log.log import (
    BEGIN,
    MAX_MESSAGE_BYTES,
    Entries,
    Entry,
    LogAwayError,
    Position,
    Start,
    Stream,
)
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.event_log.streams import (
    Limits,
    Streams,
    message,
    name_of,
    position_of,
    start_after,
    subject_of,
)
from vireo.v1.event_pb2 import EventKind

log = structlog.get_logger()

EVENT_KINDS = {number: name[len("EVENT_KIND_") :].lower() for name, number in EventKind.items()}
"""Names of the kinds of events in metrics, by their numbers, for example "play"."""

MISSED = Counter(
    "vireo_log_missed_messages_total",
    "Messages that the log kept no longer when they were to be read, whatever their partition.",
)

_APPEND_SECONDS = 2.0
"""Maximum seconds to wait until a message is stored."""
_RETRY_SECONDS = 0.25
"""Seconds between two attempts to connect."""
_MAX_RETRY_SECONDS = 1.0
"""Maximum seconds between two attempts to read, once some have failed."""
_HEARTBEAT_SECONDS = 10.0
"""Seconds after which a server ends a reader's request, which so knows that it is there."""
_CLUSTER_HEARTBEAT_SECONDS = 2.0
"""The same in a cluster: a reader's server may die without its connection being lost, since it is
another one that it is connected to."""
_COMPARED = 32
"""Last messages of a compacted stream that a reader remembers: those that were replaced meanwhile
can't be compared with the stream."""
_NO_ROOM, _NO_MESSAGE = 10047, 10057
"""JetStream's error codes: the server may not store as much as the stream's maximum; and there is
no such message."""
_SILENT_SECONDS = 30.0
"""Maximum seconds without a word of the log for who reads to its end."""
_TRACE = "traceparent"


def open_log(settings: EventLogSettings) -> JetStreamLog | None:
    """Return the log that the settings name, None if they name none."""
    return JetStreamLog(settings) if settings.named else None


@asynccontextmanager
async def opened_log(
    settings: EventLogSettings, *, read_only: bool = False, limits: Limits = "keep"
) -> AsyncIterator[JetStreamLog]:
    """Open the log for a block; raise VireoError if the settings name none."""
    if not settings.named:
        raise VireoError("this needs the log of events: set VIREO_NATS_URL")
    event_log = JetStreamLog(settings, read_only=read_only, limits=limits)
    try:
        yield event_log
    finally:
        await event_log.close()


class JetStreamLog:
    """A log of streams on one NATS server or on a cluster of them. Use it from one event loop.

    Sequences are those of a stream, whatever the keys of its messages.
    """

    def __init__(
        self, settings: EventLogSettings, *, read_only: bool = False, limits: Limits = "keep"
    ) -> None:
        """Hold the settings; the first use connects.

        Args:
            settings: how to reach it, and how to make streams that aren't there.
            read_only: make no streams: they would have the settings of whoever reads. Streams that
                aren't there end at 0.
            limits: what becomes of those of streams that are there, once; consumers set them.
        """
        self._settings = settings
        self._streams = Streams(settings, read_only=read_only, limits=limits)
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._opened_at = 0.0
        """When the last attempt to connect began, monotonic."""

    async def append(
        self,
        stream: Stream,
        key: str,
        data: bytes,
        dedup_id: str = "",
        *,
        traceparent: str = "",
        after: int | None = None,
    ) -> int:
        """Store a message and return its sequence: no crash of a process loses it from then on.

        Args:
            stream: where to.
            key: the message's key.
            data: the message, at most MAX_MESSAGE_BYTES.
            dedup_id: the message is dropped if one with this id was appended within the last hour.
            traceparent: comes along with the message, see `Entry`.
            after: the message is refused unless the stream's last sequence is this.

        Raises:
            LogAwayError: it may be stored or not; known within seconds.
            ValueError: the message is too large.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"{len(data)} bytes are more than a message of the log may have")
        sent = {"Nats-Msg-Id": dedup_id, _TRACE: traceparent}
        if after is not None:
            sent["Nats-Expected-Last-Sequence"] = str(after)
        headers = {name: value for name, value in sent.items() if value} or None
        subject = subject_of(stream, key)
        async with self._answered("written"):
            connection = await self._connected()
            try:
                stored = await connection.ask(subject, data, headers)
            except NoRespondersError:
                # It has lost its data, or nobody leads the stream yet: nothing was stored.
                await self._streams.prepare(connection)
                await self._streams.info(connection, stream, used=True)
                stored = await connection.ask(subject, data, headers)
        return int(stored["seq"])

    async def read(
        self, stream: Stream, key: str = "", after: Position = BEGIN
    ) -> AsyncGenerator[Entries, None]:
        """Yield the messages after a position, in order, as they come; without an end.

        Empty entries say that all that was there has been yielded: they come as soon as that is
        so, never before, and then whenever a request of some seconds ends. Their position is beyond
        messages of other keys, too. While the log is away it waits.

        Each time that it connects it resumes as `resume` says: a log that isn't the one that was
        read, or has lost messages which were, is read from its begin; messages that the log doesn't
        keep any more are logged as an error, and left out. So a compacted stream may come again.

        Args:
            stream: what to read.
            key: read the messages of this key alone; all of the stream if empty.
            after: the position that was reached before.
        """
        prefix = subject_of(stream, "")
        read = deque([after], _COMPARED if stream.compacted else 1)
        wait, connection = _RETRY_SECONDS, None
        while True:
            try:
                connection = await self._connected()
                info = await self._streams.info(connection, stream, used=True)
                created = info["created"]
                start = await start_after(connection, stream, info, reversed(read), key or ">")
                known = read[-1] != BEGIN
                if not start.after:
                    read.clear()
                    read.append(BEGIN)
                if start.missing and known:
                    last = start.missing[-1]
                    MISSED.inc(len(start.missing))
                    log.error(
                        "the log doesn't keep messages any more that weren't read",
                        stream=stream.name,
                        key=key,
                        first=start.missing[0],
                        last=last,
                        kept_since=start.kept_since,
                    )
                    read.append(Position(last, created))
                subject = subject_of(stream, key or ">")
                messages = pull(connection, name_of(stream), subject, start.after, self._heartbeat)
                async with aclosing(messages):
                    async for some in messages:
                        entries = [
                            Entry(
                                each.metadata.sequence.stream,
                                each.subject[len(prefix) :],
                                each.data,
                                (each.headers or {}).get(_TRACE, ""),
                                created,
                                each.metadata.timestamp.timestamp(),
                            )
                            for each in some
                        ]
                        wait = _RETRY_SECONDS
                        read.extend(entry.position for entry in entries[-_COMPARED:])
                        if key and not entries and not stream.compacted:
                            read.append(
                                await self._beyond_others(connection, stream, key, read[-1])
                            )
                        yield Entries(entries, read[-1])
            except (NatsError, OSError, TimeoutError) as error:
                if wait == _RETRY_SECONDS:
                    log.warning("the log can't be read", stream=stream.name, reason=_reason(error))
                wait = min(2 * wait, _MAX_RETRY_SECONDS)
                if connection is not None and isinstance(error, TimeoutError):
                    await connection.part()
            await asyncio.sleep(wait)

    async def up_to_end(
        self, stream: Stream, key: str = "", after: Position = BEGIN
    ) -> AsyncGenerator[Entries, None]:
        """Yield the messages after a position up to the end as it is now; the last may be empty.

        A compacted stream is read until nothing is left: a message that is replaced meanwhile is
        found only beyond the end of before.

        Raises:
            LogAwayError: nothing comes for some time.
        """
        end = await self.end(stream, key)
        async with aclosing(self.read(stream, key, after)) as reading:
            while True:
                try:
                    async with asyncio.timeout(_SILENT_SECONDS):
                        entries = await anext(reading)
                except TimeoutError as error:
                    reason = "the log doesn't answer any more; try again later"
                    raise LogAwayError(reason) from error
                yield entries
                if not entries or (entries[-1].sequence >= end and not stream.compacted):
                    return

    async def resume(self, stream: Stream, stored: Position, key: str = ">") -> Start:
        """Return where to go on in a stream as it is now; see `start_after` for `key`.

        That is the begin if the position is one of another log, or is beyond the end, or if
        another message has its sequence; and if a compacted stream has replaced its message since,
        as nothing can be compared then. What a stream that isn't compacted keeps no longer is no
        mismatch: unread messages among it are `missing`.

        Raises:
            LogAwayError: the log can't be read now.
        """
        async with self._answered("read"):
            try:
                connection = await self._connected()
                info = await self._streams.info(connection, stream)
                return await start_after(connection, stream, info, [stored], key)
            except NotFoundError:
                return Start(0)

    async def end(self, stream: Stream, key: str = "") -> int:
        """Return the sequence of the last message, 0 without one; raise LogAwayError."""
        async with self._answered("read"):
            try:
                connection = await self._connected()
                if not key:
                    return int((await self._streams.info(connection, stream))["state"]["last_seq"])
                last = await message(connection, stream, last_by_subj=subject_of(stream, key))
                return last["seq"] if last else 0
            except NotFoundError:
                return 0

    async def position_at(self, stream: Stream, seconds: float) -> Position:
        """Return the position after all that a stream received before a time, Unix seconds.

        It is the begin if the stream doesn't keep all that it received since; raise LogAwayError.
        """
        since = datetime.fromtimestamp(seconds, UTC).isoformat()
        async with self._answered("read"):
            connection = await self._connected()
            info = await self._streams.info(connection, stream)
            # A server that knew no time would return the first message, and so the begin.
            after = {"start_time": since, "next_by_subj": subject_of(stream, ">")}
            found = await message(connection, stream, **after)
            first = info["state"]["first_seq"]
            if not info["state"]["messages"] or (found is not None and found["seq"] <= first):
                return BEGIN
            last = found["seq"] - 1 if found is not None else info["state"]["last_seq"]
            return await position_of(connection, stream, info, last)

    async def describe(self, stream: Stream) -> dict[str, Any]:
        """Return a stream's `config` and `state`, as JetStream has them; raise LogAwayError."""
        async with self._answered("read"):
            return await self._streams.info(await self._connected(), stream)

    async def usage(self, stream: Stream) -> tuple[int, int]:
        """Return the bytes that a stream has, and its maximum, 0 for none; raise LogAwayError."""
        info = await self.describe(stream)
        return int(info["state"]["bytes"]), max(0, int(info["config"]["max_bytes"]))

    async def delete(self, stream: Stream, sequence: int) -> None:
        """Delete a message for good, if it is there; raise LogAwayError."""
        asked = json.dumps({"seq": sequence}).encode()
        async with self._answered("written"):
            try:
                connection = await self._connected()
                await connection.ask(f"$JS.API.STREAM.MSG.DELETE.{name_of(stream)}", asked)
            except APIError as error:
                if error.err_code != _NO_MESSAGE:
                    raise

    async def purge(self, stream: Stream, key: str, upto: Position) -> None:
        """Delete the messages of a key up to a position, if that holds; raise LogAwayError."""
        if (await self.resume(stream, upto, key)).after != upto.sequence:
            return
        asked = json.dumps({"filter": subject_of(stream, key), "seq": upto.sequence + 1}).encode()
        async with self._answered("written"):
            connection = await self._connected()
            await connection.ask(f"$JS.API.STREAM.PURGE.{name_of(stream)}", asked)

    async def save(self, stream: Stream, file: BinaryIO) -> None:
        """Write a snapshot of a stream to a file, for `restore`; raise LogAwayError."""
        async with self._answered("copied", None):
            await self._streams.save(await self._connected(), stream, file)

    async def restore(self, stream: Stream, file: BinaryIO) -> None:
        """Replace a stream by a snapshot, with the settings' replicas; raise LogAwayError.

        Positions in the stream that was saved hold in it, up to where that was. It keeps as much
        as it did: other settings are for consumers to take over, which refuse what loses messages.
        """
        async with self._answered("restored", None):
            await self._streams.restore(await self._connected(), stream, file)

    async def close(self) -> None:
        """Close the connection."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    @asynccontextmanager
    async def _answered(
        self, done: str, seconds: float | None = _APPEND_SECONDS
    ) -> AsyncIterator[None]:
        """Bound the time of a question; raise LogAwayError without an answer, or for a refusal."""
        asked = self._connection
        try:
            async with asyncio.timeout(seconds):
                yield
        except (NatsError, OSError, TimeoutError) as error:
            # Another connection that has been opened since isn't at fault.
            if isinstance(error, TimeoutError) and asked is not None:
                await asked.part()
            raise LogAwayError(f"the log can't be {done}: {_reason(error)}") from error

    @property
    def _heartbeat(self) -> float:
        cluster = self._settings.event_replicas > 1
        return _CLUSTER_HEARTBEAT_SECONDS if cluster else _HEARTBEAT_SECONDS

    async def _connected(self) -> Connection:
        """Return a connection to a server that has the streams, made now if there is none."""
        if self._connection is not None:
            if self._connection.usable:
                return self._connection
            self._connection.end()  # before there is another
        failed = self._opening is not None and self._opening.done()
        if self._opening is None or (
            failed and time.monotonic() - self._opened_at >= _RETRY_SECONDS
        ):
            self._opened_at = time.monotonic()
            self._opening = asyncio.create_task(self._open())
            # All who wait for it may have gone.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        # One that has just failed fails this call, too.
        connection = await asyncio.shield(self._opening)
        if not connection.usable:
            raise ConnectionResetError("the connection was lost")
        return connection

    async def _open(self) -> Connection:
        connection = await Connection.open(self._settings)
        try:
            await self._streams.prepare(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        CONNECTED.set(connection.usable)
        return connection

    async def _beyond_others(
        self, connection: Connection, stream: Stream, key: str, read: Position
    ) -> Position:
        """Return the stream's end if none of the messages after a position has the key.

        Else a reader whose key is idle would seem to miss what is kept no longer of other keys.
        """
        info = await self._streams.info(connection, stream)
        end = info["state"]["last_seq"]
        if read.log not in ("", info["created"]) or end <= read.sequence:
            return read
        last = await message(connection, stream, last_by_subj=subject_of(stream, key))
        if last is not None and last["seq"] > read.sequence:
            return read
        return await position_of(connection, stream, info, end)


def _reason(error: Exception) -> str:
    if isinstance(error, APIError) and error.description:
        hint = "; see VIREO_EVENT_MAX_BYTES" if error.err_code == _NO_ROOM else ""
        return error.description + hint
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else repr(error))
