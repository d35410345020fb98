"""The log as NATS JetStream streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from server.event_log.log import EVENTS, STREAMS, Entry, EventLog, LogAwayError, Stream
from server.event_log.pull import pull
from server.event_log.settings import EventLogSettings

log = structlog.get_logger()

_CONNECT_SECONDS = 2
_RECONNECT_SECONDS = 0.25
_APPEND_SECONDS = 2.0
"""Maximum seconds to wait until a message is stored."""
_DUPLICATES_SECONDS = 3600.0
_PREFIX = "vireo"


class JetStreamLog(EventLog):
    """A log on one NATS server or on a cluster of them."""

    def __init__(self, settings: EventLogSettings) -> None:
        """Hold the settings; the connection is opened by the first use."""
        self._settings = settings
        self._client = Client()
        self._opening: asyncio.Task[JetStreamContext] | None = None
        self._connections = 0
        """Number of times that the connection was made."""
        self._reconnected = asyncio.Event()

    async def append(self, stream: Stream, key: str, data: bytes, once: str = "") -> int:
        """Store a message and return its position; see `EventLog`."""
        headers = {"Nats-Msg-Id": once} if once else None
        try:
            async with asyncio.timeout(_APPEND_SECONDS):
                streams = await self._streams()
                stored = await streams.publish(
                    _subject(stream, key), data, timeout=_APPEND_SECONDS, headers=headers
                )
        except (NatsError, OSError, TimeoutError) as error:
            raise LogAwayError(f"the log can't be written: {_reason(error)}") from error
        return stored.seq

    async def read(
        self, stream: Stream, key: str = "", after: int = 0
    ) -> AsyncIterator[Sequence[Entry]]:
        """Yield the messages after a position; see `EventLog`."""
        prefix = _subject(stream, "")
        away = False
        while True:
            try:
                await self._streams()
                reconnected = self._reconnected
                async for some in pull(
                    self._client, _name(stream), _subject(stream, key or ">"), after, reconnected
                ):
                    entries = [
                        Entry(each.metadata.sequence.stream, each.subject[len(prefix) :], each.data)
                        for each in some
                    ]
                    away = False
                    yield entries
                    if entries:
                        after = entries[-1].position
            except (NatsError, OSError, TimeoutError) as error:
                if not away:
                    log.warning("the log can't be read", stream=stream.name, reason=_reason(error))
                away = True
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def end(self, stream: Stream, key: str = "") -> int:
        """Return the position of the last message; see `EventLog`."""
        try:
            async with asyncio.timeout(_APPEND_SECONDS):
                streams = await self._streams()
                last = await streams.get_last_msg(_name(stream), _subject(stream, key or ">"))
        except NotFoundError:
            return 0
        except (NatsError, OSError, TimeoutError) as error:
            raise LogAwayError(f"the log can't be read: {_reason(error)}") from error
        return last.seq or 0

    async def close(self) -> None:
        """Close the connection."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._client.close()

    async def _streams(self) -> JetStreamContext:
        """Return the streams once the log is connected and has them."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> JetStreamContext:
        settings = self._settings
        if self._client.is_closed or not self._client.is_connected:
            await self._connect()
        streams = self._client.jetstream(timeout=_APPEND_SECONDS)
        for stream in STREAMS:
            await _ensure(streams, stream, settings)
        return streams

    async def _connect(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {}
        if settings.nats_token.get_secret_value():
            options["token"] = settings.nats_token.get_secret_value()
        if settings.nats_ca:
            import ssl

            options["tls"] = ssl.create_default_context(cafile=settings.nats_ca)
        await self._client.connect(
            settings.servers,
            connect_timeout=_CONNECT_SECONDS,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]  # any number
            # What is published while the connection is down fails at once: callers repeat it.
            pending_size=8 << 20,
            error_cb=_ignore,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            **options,
        )

    async def _on_disconnect(self) -> None:
        log.warning("connection to the log lost")

    async def _on_reconnect(self) -> None:
        log.info("connection to the log is back")
        # Requests of readers were lost with the connection.
        self._reconnected.set()
        self._reconnected = asyncio.Event()


async def _ignore(_: Exception) -> None:
    """Errors come back from the calls that they fail; the callbacks above report the connection."""


async def _ensure(streams: JetStreamContext, stream: Stream, settings: EventLogSettings) -> None:
    """Make a stream unless it is there: one that is keeps its configuration."""
    try:
        await streams.stream_info(_name(stream))
        return
    except NotFoundError:
        pass
    await streams.add_stream(
        StreamConfig(
            name=_name(stream),
            subjects=[_subject(stream, ">")],
            storage=StorageType.FILE,
            num_replicas=settings.event_replicas,
            max_msgs_per_subject=1 if stream.compacted else -1,
            max_age=0 if stream.compacted else settings.event_retention,
            max_bytes=settings.event_max_bytes if stream is EVENTS else -1,
            # Events that nobody has read yet must not be lost for newer ones.
            discard=DiscardPolicy.OLD if stream.compacted else DiscardPolicy.NEW,
            duplicate_window=_DUPLICATES_SECONDS,
            allow_direct=True,
        )
    )


def _name(stream: Stream) -> str:
    return f"{_PREFIX}_{stream.name}"


def _subject(stream: Stream, key: str) -> str:
    return f"{_PREFIX}.{stream.name}.{key}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
