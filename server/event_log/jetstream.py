"""The log as NATS JetStream streams."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import APIError, NotFoundError
from prometheus_client import Counter

from vireo.server.errors import VireoError
from vireo.server.event_log.limits import Limits, check_nothing_lost, limits_of
from vireo.server.event_log.log import (
    EVENTS,
    STREAMS,
    Entries,
    Entry,
    LogAwayError,
    Stream,
    check_size,
)
from vireo.server.event_log.nats_connection import CONNECTED, Connection
from vireo.server.event_log.position import BEGIN, Position, Start, fingerprint_of
from vireo.server.event_log.pull import pull
from vireo.server.event_log.settings import EventLogSettings

log = structlog.get_logger()

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
"""Seconds after which a server tells an idle reader that it is there."""
_CLUSTER_HEARTBEAT_SECONDS = 2.0
"""The same in a cluster: a reader's server may die without its connection being lost, since it is
another one that it is connected to."""
_UNAVAILABLE = 503
"""JetStream's code of errors that pass: nobody leads a stream yet, for example."""
_NAME_IN_USE, _NO_ROOM, _NO_MESSAGE = 10058, 10047, 10057
"""JetStream's error codes: a stream was made with another configuration meanwhile; the server may
not store as much as the stream's maximum; and there is no such message."""
_COMPARED = 32
"""Last messages of a compacted stream that a reader remembers: those that were replaced meanwhile
can't be compared with the stream."""
_PARTITIONS = "vireo.partitions"
"""Key in the metadata of EVENTS: the number of partitions is fixed with the log."""
_LOG = "vireo.log"
"""Key in the metadata of a stream that was restored: the log that it was, so that positions in that
one hold."""
_CHUNK_BYTES = 1 << 19
"""Bytes of a snapshot that are sent at a time."""
_COPY_SECONDS, _RESTORE_SECONDS = 30.0, 3600.0
"""Maximum seconds to wait for the next chunk, and for a snapshot that was sent to be a stream."""
_COMPLETE = "204"
"""Status at the end of a snapshot; one of a single chunk has none."""
_PREFIX = "vireo"
_TRACE = "traceparent"


class JetStreamLog:
    """A log of streams on one NATS server or on a cluster of them. Use it from one event loop.

    Sequences are those of a stream, whatever the keys of its messages.
    """

    def __init__(
        self, settings: EventLogSettings, *, read_only: bool = False, limits: Limits = "keep"
    ) -> None:
        """Hold the settings; the first use connects, and makes streams unless it is read-only."""
        self._settings = settings
        self._read_only = read_only
        self._limits = limits
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._opened_at = 0.0
        """When the last attempt to connect began, monotonic."""
        self._leaving: asyncio.Task[None] | None = None

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
        check_size(data)
        sent = {"Nats-Msg-Id": dedup_id, _TRACE: traceparent}
        if after is not None:
            sent["Nats-Expected-Last-Sequence"] = str(after)
        headers = {name: value for name, value in sent.items() if value} or None
        subject = _subject(stream, key)
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_APPEND_SECONDS):
                connection = await self._connected()
                self._leave_if_silent(connection)
                try:
                    stored = await connection.ask(subject, data, headers)
                except NoRespondersError:
                    # It has lost its data, or nobody leads the stream yet: nothing was stored.
                    await self._make_streams(connection)
                    stored = await connection.ask(subject, data, headers)
        except (NatsError, OSError, TimeoutError) as error:
            if connection is not None and isinstance(error, TimeoutError):
                await self._doubt(connection)
            raise LogAwayError(f"the log can't be written: {_reason(error)}") from error
        return int(stored["seq"])

    async def read(
        self, stream: Stream, key: str = "", after: Position = BEGIN
    ) -> AsyncIterator[Entries]:
        """Yield the messages after a position, in order, as they come; without an end.

        Empty entries say that all that was there has been yielded: they come as soon as that is
        so, never before, and then whenever nothing new has come for some seconds. Their position is
        beyond messages of other keys, too. While the log is away it waits.

        Each time that it connects it resumes as `resume` says: a log that isn't the one that was
        read, or has lost messages which were, is read from its begin; messages that the log doesn't
        keep any more are logged as an error, and left out.

        Args:
            stream: what to read.
            key: read the messages of this key alone; all of the stream if empty.
            after: the position that was reached before.
        """
        prefix = _subject(stream, "")
        read = deque([after], _COMPARED if stream.compacted else 1)
        wait, connection = _RETRY_SECONDS, None
        while True:
            try:
                connection = await self._connected()
                info = await self._info(connection, stream)
                created = info["created"]
                start = await _start(connection, stream, info, reversed(read))
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
                subject = _subject(stream, key or ">")
                messages = pull(connection, _name(stream), subject, start.after, self._heartbeat)
                async with aclosing(messages):
                    async for some in messages:
                        entries = [
                            Entry(
                                each.metadata.sequence.stream,
                                each.subject[len(prefix) :],
                                each.data,
                                (each.headers or {}).get(_TRACE, ""),
                                created,
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
                    await self._doubt(connection)
            await asyncio.sleep(wait)

    async def resume(self, stream: Stream, stored: Position) -> Start:
        """Return where to go on in a stream as it is now.

        That is the begin if the position is one of another log, or is beyond the end, or if
        another message has its sequence; and if a compacted stream has replaced its message since,
        as nothing can be compared then. What a stream that isn't compacted keeps no longer is no
        mismatch: unread messages among it are `missing`.

        Raises:
            LogAwayError: the log can't be read now.
        """
        async with _answered("read"):
            try:
                connection = await self._connected()
                info = await self._info(connection, stream)
                return await _start(connection, stream, info, [stored])
            except NotFoundError:
                return Start(0)

    async def end(self, stream: Stream, key: str = "") -> int:
        """Return the sequence of the last message, 0 without one; raise LogAwayError."""
        async with _answered("read"):
            try:
                connection = await self._connected()
                if not key:
                    return int((await self._info(connection, stream))["state"]["last_seq"])
                last = await _message(connection, stream, last_by_subj=_subject(stream, key))
                return last["seq"] if last else 0
            except NotFoundError:
                return 0

    async def position_at(self, stream: Stream, seconds: float) -> Position:
        """Return the position after all that a stream received before a time, Unix seconds.

        It is the begin if the stream doesn't keep all that it received since; raise LogAwayError.
        """
        since = datetime.fromtimestamp(seconds, UTC).isoformat()
        async with _answered("read"):
            connection = await self._connected()
            info = await self._info(connection, stream)
            # A server that knew no time would return the first message, and so the begin.
            after = {"start_time": since, "next_by_subj": _subject(stream, ">")}
            found = await _message(connection, stream, **after)
            first = info["state"]["first_seq"]
            if not info["state"]["messages"] or (found is not None and found["seq"] <= first):
                return BEGIN
            last = found["seq"] - 1 if found is not None else info["state"]["last_seq"]
            before = await _message(connection, stream, seq=last) if last else None
        fingerprint = fingerprint_of(_data(before)) if before is not None else None
        return Position(last, info["created"], fingerprint)

    async def describe(self, stream: Stream) -> dict[str, Any]:
        """Return a stream's `config` and `state`, as JetStream has them; raise LogAwayError."""
        async with _answered("read"):
            return await self._info(await self._connected(), stream)

    async def usage(self, stream: Stream) -> tuple[int, int]:
        """Return the bytes that a stream has, and its maximum, 0 for none; raise LogAwayError."""
        info = await self.describe(stream)
        return int(info["state"]["bytes"]), max(0, int(info["config"]["max_bytes"]))

    async def delete(self, stream: Stream, sequence: int) -> None:
        """Delete a message for good, if it is there; raise LogAwayError."""
        asked = json.dumps({"seq": sequence}).encode()
        async with _answered("written"):
            try:
                connection = await self._connected()
                await connection.ask(f"$JS.API.STREAM.MSG.DELETE.{_name(stream)}", asked)
            except APIError as error:
                if error.err_code != _NO_MESSAGE:
                    raise

    async def save(self, stream: Stream, file: BinaryIO) -> None:
        """Write a snapshot of a stream to a file, for `restore`; raise LogAwayError."""
        chunks = asyncio.Queue[Msg]()  # bounded by what the server sends without an acknowledgement
        async with _answered("copied", None):
            connection = await self._connected()
            client, created = connection.client, (await self._info(connection, stream))["created"]
            inbox = client.new_inbox()
            subscription = await client.subscribe(inbox, cb=chunks.put)
            asked = {"deliver_subject": inbox, "chunk_size": _CHUNK_BYTES, "no_consumers": True}
            subject, body = f"$JS.API.STREAM.SNAPSHOT.{_name(stream)}", json.dumps(asked).encode()
            try:
                made = await connection.ask(subject, body, seconds=_COPY_SECONDS)
                config = made["config"]
                config["metadata"] = (config.get("metadata") or {}) | {_LOG: created}
                file.write(json.dumps({"config": config, "state": made["state"]}).encode() + b"\n")
                while True:
                    async with asyncio.timeout(_COPY_SECONDS):
                        chunk = await chunks.get()
                    if not chunk.data:
                        break
                    file.write(chunk.data)
                    if chunk.reply:
                        await client.publish(chunk.reply)
            finally:
                await subscription.unsubscribe()
            headers = chunk.headers or {}
            if headers.get("Status", _COMPLETE) != _COMPLETE:
                raise NatsError(f"its snapshot has failed: {headers}")

    async def restore(self, stream: Stream, file: BinaryIO) -> None:
        """Replace a stream by a snapshot, with the settings' replicas; raise LogAwayError.

        Positions in the stream that was saved hold in it, up to where that was. It keeps as much
        as it did: other settings are for consumers to take over, which refuse what loses messages.
        """
        made = json.loads(file.readline())
        made["config"]["num_replicas"] = self._settings.event_replicas
        async with _answered("restored", None):
            connection = await self._connected()
            if stream is EVENTS:
                await self._check_partitions(connection, made["config"])
            with suppress(NotFoundError):
                await connection.ask(f"$JS.API.STREAM.DELETE.{_name(stream)}")
            subject = f"$JS.API.STREAM.RESTORE.{_name(stream)}"
            told = await connection.ask(subject, json.dumps(made).encode(), seconds=_COPY_SECONDS)
            while chunk := file.read(_CHUNK_BYTES):
                await connection.ask(told["deliver_subject"], chunk, seconds=_COPY_SECONDS)
            # Nothing more: the server reads what it was sent now; in a cluster others copy it then.
            await connection.ask(told["deliver_subject"], seconds=_RESTORE_SECONDS)

    async def close(self) -> None:
        """Close the connection."""
        for task in (self._opening, self._leaving):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    @property
    def _heartbeat(self) -> float:
        cluster = self._settings.event_replicas > 1
        return _CLUSTER_HEARTBEAT_SECONDS if cluster else _HEARTBEAT_SECONDS

    async def _connected(self) -> Connection:
        """Return a connection to a server that has the streams, made now if there is none."""
        if self._connection is not None and not self._connection.lost.is_set():
            return self._connection
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
        if connection.lost.is_set():
            raise ConnectionResetError("the connection was lost")
        return connection

    async def _open(self) -> Connection:
        connection = await Connection.open(self._settings)
        try:
            await self._make_streams(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        CONNECTED.set(not connection.lost.is_set())
        return connection

    def _leave_if_silent(self, connection: Connection) -> None:
        """Part with a server that answers nobody: each caller may leave before it times out."""
        leaving = self._leaving is not None and not self._leaving.done()
        if connection.silent_seconds > _APPEND_SECONDS and not leaving:
            self._leaving = asyncio.create_task(self._doubt(connection))

    async def _doubt(self, connection: Connection) -> None:
        """Part with a server that didn't answer; in a cluster another one may."""
        if connection.lost.is_set():
            return
        if len(self._settings.servers) > 1:
            await connection.close()
        else:
            await connection.close_unless_alive()
        if connection.lost.is_set():
            log.warning("left a server of the log that didn't answer", server=connection.server)

    async def _info(self, connection: Connection, stream: Stream) -> dict[str, Any]:
        """Return what the server knows of a stream, made now if it isn't there.

        Raises:
            NotFoundError: it isn't there, and this log may only look.
        """
        asked = f"$JS.API.STREAM.INFO.{_name(stream)}"
        try:
            info = await connection.ask(asked)
        except NotFoundError:
            if self._read_only:
                raise
            await self._make(connection, stream)
            info = await connection.ask(asked)
        info["created"] = (info["config"].get("metadata") or {}).get(_LOG, info["created"])
        return info

    async def _beyond_others(
        self, connection: Connection, stream: Stream, key: str, read: Position
    ) -> Position:
        """Return the stream's end if none of the messages after a position has the key.

        Else a reader whose key is idle would seem to miss what is kept no longer of other keys.
        """
        info = await self._info(connection, stream)
        end = info["state"]["last_seq"]
        if read.log not in ("", info["created"]) or end <= read.sequence:
            return read
        last = await _message(connection, stream, last_by_subj=_subject(stream, key))
        if last is not None and last["seq"] > read.sequence:
            return read
        found = await _message(connection, stream, seq=end)
        fingerprint = fingerprint_of(_data(found)) if found is not None else None
        return Position(end, info["created"], fingerprint)

    async def _make_streams(self, connection: Connection) -> None:
        if self._read_only:
            return
        for stream in STREAMS:
            info = await self._info(connection, stream)
            if stream is EVENTS:
                await self._check_partitions(connection, info["config"])
            if self._limits != "keep":
                await self._set_limits(connection, stream)
        self._limits = "keep"

    async def _set_limits(self, connection: Connection, stream: Stream) -> None:
        """Give a stream the settings' limits; raise VireoError if it loses by that, or can't."""
        info = await self._info(connection, stream)
        before, limits = info["config"], limits_of(stream, self._settings)
        if limits.items() <= before.items():
            return
        if self._limits == "set":
            check_nothing_lost(limits, info)
        asked = json.dumps({**before, **limits}).encode()
        try:
            await connection.ask(f"$JS.API.STREAM.UPDATE.{_name(stream)}", asked)
        except APIError as error:
            if error.code == _UNAVAILABLE:
                raise
            raise VireoError(
                f"the log's servers refuse {limits} of stream {_name(stream)}: "
                f"{error.description}; see VIREO_EVENT_MAX_BYTES and VIREO_EVENT_REPLICAS"
            ) from error
        log.info("a stream has other limits", stream=stream.name, **limits)

    async def _check_partitions(
        self, connection: Connection, configuration: dict[str, Any]
    ) -> None:
        """Fix the number of partitions with a log that has none yet; refuse another number.

        Raises:
            VireoError: it has another number: a viewer's events would change their partition, and
                those that aren't applied yet be overtaken, or never read.
        """
        ours, metadata = self._settings.event_partitions, configuration.get("metadata") or {}
        if _PARTITIONS not in metadata:
            fixed = {**configuration, "metadata": {**metadata, _PARTITIONS: str(ours)}}
            asked = json.dumps(fixed).encode()
            await connection.ask(f"$JS.API.STREAM.UPDATE.{_name(EVENTS)}", asked)
        elif metadata[_PARTITIONS] != str(ours):
            raise VireoError(
                f"VIREO_EVENT_PARTITIONS={ours}, but the log's events have "
                f"{metadata[_PARTITIONS]} partitions; their number is fixed with the log"
            )

    async def _make(self, connection: Connection, stream: Stream) -> None:
        """Make a stream; one that is there keeps its configuration."""
        settings = self._settings
        configuration: dict[str, Any] = {
            "name": _name(stream),
            "subjects": [_subject(stream, ">")],
            "storage": "file",
            "max_msgs_per_subject": 1 if stream.compacted else -1,
            # Events that nobody has read yet must not be lost for newer ones.
            "discard": "new" if stream is EVENTS else "old",
            "retention": "limits",
            **limits_of(stream, settings),
        }
        if stream is EVENTS:
            configuration["metadata"] = {_PARTITIONS: str(settings.event_partitions)}
        try:
            asked = json.dumps(configuration).encode()
            await connection.ask(f"$JS.API.STREAM.CREATE.{_name(stream)}", asked)
        except APIError as error:
            if error.err_code != _NAME_IN_USE:
                raise


@asynccontextmanager
async def _answered(done: str, seconds: float | None = _APPEND_SECONDS) -> AsyncIterator[None]:
    """Bound the time of what is asked; raise LogAwayError if there is no answer, or a refusal."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (NatsError, OSError, TimeoutError) as error:
        raise LogAwayError(f"the log can't be {done}: {_reason(error)}") from error


async def _start(
    connection: Connection, stream: Stream, info: dict[str, Any], read: Iterable[Position]
) -> Start:
    """Return where to go on: by the first of some positions, latest first, to compare with."""
    state, replaced = info["state"], 0
    for position in read:
        sequence = position.sequence
        lost = position.log not in ("", info["created"]) or sequence > state["last_seq"]
        if not lost:
            if sequence < state["first_seq"] and not stream.compacted:
                return Start(sequence, range(sequence + 1, state["first_seq"]), state["first_ts"])
            if not sequence or position.fingerprint is None:
                return Start(sequence)
            found = await _message(connection, stream, seq=sequence)
            if found is None:
                replaced = replaced or sequence
                continue
            if fingerprint_of(_data(found)) == position.fingerprint:
                return Start(sequence)
        log.error(
            "the log lost messages, or is another one: it is read from its begin",
            stream=stream.name,
            position=str(position),
        )
        replaced = 0
        break
    missing = range(1, 1 if stream.compacted else state["first_seq"])
    return Start(0, missing, state["first_ts"], replaced)


async def _message(
    connection: Connection, stream: Stream, **which: int | str
) -> dict[str, Any] | None:
    """Return a message as JetStream describes it; None if it isn't there."""
    try:
        asked = f"$JS.API.STREAM.MSG.GET.{_name(stream)}"
        found = await connection.ask(asked, json.dumps(which).encode())
    except NotFoundError:
        return None
    message: dict[str, Any] = found["message"]
    return message


def _data(message: dict[str, Any]) -> bytes:
    return b64decode(message.get("data", ""))


def _name(stream: Stream) -> str:
    return f"{_PREFIX}_{stream.name}"


def _subject(stream: Stream, key: str) -> str:
    return f"{_PREFIX}.{stream.name}.{key}"


def _reason(error: Exception) -> str:
    if isinstance(error, APIError) and error.description:
        hint = "; see VIREO_EVENT_MAX_BYTES" if error.err_code == _NO_ROOM else ""
        return error.description + hint
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else repr(error))
