"""The streams on a server: how they are named, made and limited, and what is in them."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO, Literal

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from vireo.server.errors import VireoError
from vireo.server.event_log.connection import Connection
from vireo.server.event_log.log import (
    EVENTS,
    SLATES,
    STREAMS,
    Position,
    Start,
    Stream,
    fingerprint_of,
)
from vireo.server.event_log.settings import EventLogSettings

log = structlog.get_logger()

Limits = Literal["keep", "set", "force"]
"""Whether streams that are there keep their limits, get those of the settings unless that loses
something, or get them anyway."""

_DUPLICATES_SECONDS, _NANOSECONDS = 3600.0, 1_000_000_000
_DEAD_BYTES = 1 << 30
"""Maximum bytes of dead letters; beyond it the oldest go."""
_UNAVAILABLE = 503
"""JetStream's code of errors that pass: nobody leads a stream yet, for example."""
_NAME_IN_USE = 10058
"""JetStream's error code if a stream was made with another configuration meanwhile."""
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


def name_of(stream: Stream) -> str:
    """Return a stream's name on a server."""
    return f"{_PREFIX}_{stream.name}"


def subject_of(stream: Stream, key: str) -> str:
    """Return the subject of a key's messages; ">" is any."""
    return f"{_PREFIX}.{stream.name}.{key}"


async def message(
    connection: Connection, stream: Stream, **which: int | str
) -> dict[str, Any] | None:
    """Return a message as JetStream describes it; None if it isn't there."""
    try:
        asked = f"$JS.API.STREAM.MSG.GET.{name_of(stream)}"
        found = await connection.ask(asked, json.dumps(which).encode())
    except NotFoundError:
        return None
    described: dict[str, Any] = found["message"]
    return described


async def position_of(
    connection: Connection, stream: Stream, info: Mapping[str, Any], sequence: int
) -> Position:
    """Return the position after a message."""
    found = await message(connection, stream, seq=sequence) if sequence else None
    return Position(sequence, info["created"], fingerprint(found) if found else None)


def fingerprint(described: Mapping[str, Any]) -> int:
    """Return the fingerprint of a message that JetStream describes."""
    return fingerprint_of(b64decode(described.get("data", "")))


async def start_after(
    connection: Connection,
    stream: Stream,
    info: dict[str, Any],
    read: Iterable[Position],
    key: str = ">",
) -> Start:
    """Return where to go on: by the first of some positions, latest first, to compare with.

    Of a consumed stream, `key` is the one whose messages were read.
    """
    state, replaced = info["state"], 0
    has_gaps = stream.compacted or stream.consumed
    for position in read:
        sequence = position.sequence
        lost = position.log not in ("", info["created"]) or sequence > state["last_seq"]
        if not lost:
            if sequence < state["first_seq"] and not has_gaps:
                return Start(sequence, range(sequence + 1, state["first_seq"]), state["first_ts"])
            if not sequence or position.fingerprint is None:
                return Start(sequence)
            found = await message(connection, stream, seq=sequence)
            if found is None and stream.consumed:
                # It is deleted with all of its key before it. Others there have come since.
                which: dict[str, int | str] = {"seq": 1, "next_by_subj": subject_of(stream, key)}
                first = await message(connection, stream, **which)
                if first is None or first["seq"] > sequence:
                    return Start(sequence)
            elif found is None:
                replaced = replaced or sequence
                continue
            if found and fingerprint(found) == position.fingerprint:
                return Start(sequence)
        log.error(
            "the log lost messages, or is another one: it is read from its begin",
            stream=stream.name,
            position=str(position),
        )
        replaced = 0
        break
    missing = range(1, 1 if has_gaps else state["first_seq"])
    return Start(0, missing, state["first_ts"], replaced)


class Streams:
    """The streams of a log, as settings want them."""

    def __init__(self, settings: EventLogSettings, *, read_only: bool, limits: Limits) -> None:
        """Hold the settings; none is made if they may only be read."""
        self._settings, self._read_only, self._limits = settings, read_only, limits

    async def prepare(self, connection: Connection) -> None:
        """Make the streams that aren't there, and set limits once; raise VireoError."""
        if self._read_only:
            return
        for stream in STREAMS:
            try:
                info = await self.info(connection, stream)
            except NotFoundError:  # a consumed one is made once it is used
                continue
            if stream is EVENTS:
                self._check_partitions(info["config"])
            if self._limits != "keep":
                await self._set_limits(connection, stream)
        self._limits = "keep"

    async def info(
        self, connection: Connection, stream: Stream, *, used: bool = False
    ) -> dict[str, Any]:
        """Return what the server knows of a stream, made now if it isn't there.

        Raises:
            NotFoundError: it isn't there, and is `consumed` and not `used` now, or streams may only
                be read.
        """
        asked = f"$JS.API.STREAM.INFO.{name_of(stream)}"
        try:
            info = await connection.ask(asked)
        except NotFoundError:
            if self._read_only or (stream.consumed and not used):
                raise
            await self._make(connection, stream)
            info = await connection.ask(asked)
        info["created"] = (info["config"].get("metadata") or {}).get(_LOG, info["created"])
        return info

    async def _make(self, connection: Connection, stream: Stream) -> None:
        """Make a stream; one that is there keeps its configuration."""
        configuration: dict[str, Any] = {
            "name": name_of(stream),
            "subjects": [subject_of(stream, ">")],
            "storage": "file",
            "max_msgs_per_subject": 1 if stream.compacted else -1,
            # Events that nobody has read yet must not be lost for newer ones.
            "discard": "new" if stream in (EVENTS, SLATES) else "old",
            "retention": "limits",
            **limits_of(stream, self._settings),
        }
        if stream is EVENTS:
            configuration["metadata"] = {_PARTITIONS: str(self._settings.event_partitions)}
        try:
            asked = json.dumps(configuration).encode()
            await connection.ask(f"$JS.API.STREAM.CREATE.{name_of(stream)}", asked)
        except APIError as error:
            if error.err_code != _NAME_IN_USE:
                raise

    async def _set_limits(self, connection: Connection, stream: Stream) -> None:
        """Give a stream the settings' limits; raise VireoError if it loses by that, or can't."""
        info = await self.info(connection, stream)
        before, limits = info["config"], limits_of(stream, self._settings)
        if limits.items() <= before.items():
            return
        if self._limits == "set":
            check_nothing_lost(limits, info)
        asked = json.dumps({**before, **limits}).encode()
        try:
            await connection.ask(f"$JS.API.STREAM.UPDATE.{name_of(stream)}", asked)
        except APIError as error:
            if error.code == _UNAVAILABLE:
                raise
            raise VireoError(
                f"the log's servers refuse {limits} of stream {name_of(stream)}: "
                f"{error.description}; see {_max_bytes_setting(before['name'])} and "
                "VIREO_EVENT_REPLICAS"
            ) from error
        log.info("a stream has other limits", stream=stream.name, **limits)

    def _check_partitions(self, configuration: Mapping[str, Any]) -> None:
        """Refuse a log of another number of partitions.

        Raises:
            VireoError: it has another: a viewer's events would change their partition, and those
                that aren't applied yet be overtaken, or never read.
        """
        ours, metadata = str(self._settings.event_partitions), configuration.get("metadata") or {}
        if (theirs := metadata.get(_PARTITIONS, "no")) != ours:
            raise VireoError(
                f"VIREO_EVENT_PARTITIONS={ours}, but the log's events have {theirs} partitions; "
                "their number is fixed with the log"
            )

    async def save(self, connection: Connection, stream: Stream, file: BinaryIO) -> None:
        """Write a snapshot of a stream to a file; raise nats.errors.Error or TimeoutError."""
        chunks = asyncio.Queue[Msg]()  # bounded by what the server sends without an acknowledgement
        client, created = connection.client, (await self.info(connection, stream))["created"]
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=chunks.put)
        asked = {"deliver_subject": inbox, "chunk_size": _CHUNK_BYTES, "no_consumers": True}
        subject, body = f"$JS.API.STREAM.SNAPSHOT.{name_of(stream)}", json.dumps(asked).encode()
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

    async def restore(self, connection: Connection, stream: Stream, file: BinaryIO) -> None:
        """Replace a stream by a snapshot; raise nats.errors.Error, TimeoutError or VireoError."""
        made = json.loads(file.readline())
        made["config"]["num_replicas"] = self._settings.event_replicas
        if stream is EVENTS:
            self._check_partitions(made["config"])
        with suppress(NotFoundError):
            await connection.ask(f"$JS.API.STREAM.DELETE.{name_of(stream)}")
        subject = f"$JS.API.STREAM.RESTORE.{name_of(stream)}"
        told = await connection.ask(subject, json.dumps(made).encode(), seconds=_COPY_SECONDS)
        while chunk := file.read(_CHUNK_BYTES):
            await connection.ask(told["deliver_subject"], chunk, seconds=_COPY_SECONDS)
        # Nothing more: the server reads what it was sent now; in a cluster others copy it then.
        await connection.ask(told["deliver_subject"], seconds=_RESTORE_SECONDS)


def limits_of(stream: Stream, settings: EventLogSettings) -> dict[str, int]:
    """Return the fields of a stream's configuration that follow from the settings."""
    replicas, retention = {"num_replicas": settings.event_replicas}, settings.event_retention
    if stream.compacted:
        return replicas
    max_bytes = {EVENTS: settings.event_max_bytes, SLATES: settings.slate_max_bytes}
    return replicas | {
        "max_age": int(retention * _NANOSECONDS),
        "max_bytes": max_bytes.get(stream, _DEAD_BYTES),
        "duplicate_window": int(min(_DUPLICATES_SECONDS, retention) * _NANOSECONDS),
    }


def _max_bytes_setting(name: str) -> str:
    return f"VIREO_{'SLATE' if name == name_of(SLATES) else 'EVENT'}_MAX_BYTES"


def check_nothing_lost(wanted: Mapping[str, int], info: Mapping[str, Any]) -> None:
    """Raise VireoError if limits would delete messages or copies of a stream, or leave no room.

    `info` has the stream's configuration and state, as JetStream describes them.
    """
    now, state = info["config"], info["state"]
    shorter = wanted.get("max_age", now["max_age"]) != now["max_age"] and state["messages"]
    first = datetime.fromisoformat(state["first_ts"]).timestamp()
    if (new := wanted["num_replicas"]) < (has := now["num_replicas"]):
        setting, loss = "VIREO_EVENT_REPLICAS", "servers would delete their copies"
    elif (new := wanted.get("max_bytes", state["bytes"])) < state["bytes"] and now[
        "name"
    ] != name_of(SLATES):  # of which no more are recorded until there is room
        setting, has = _max_bytes_setting(now["name"]), now["max_bytes"]
        loss = f"every message would be refused, since {state['bytes']} bytes are there"
    elif shorter and time.time() - first > (new := wanted["max_age"] // _NANOSECONDS):
        setting, has = "VIREO_EVENT_RETENTION", now["max_age"] // _NANOSECONDS
        loss = f"messages would be deleted, since the first is of {state['first_ts']}"
    else:
        return
    limit = "no limit" if has <= 0 else has  # as somebody else made it, which no setting says
    remedy = "more" if has <= 0 else has
    raise VireoError(
        f"{setting}={new}, but stream {now['name']} has {limit}, and {loss}; set it to {remedy}, "
        f"or accept that: {setting}={new} vireo events limits --apply --yes"
    )
