"""HTTP/2 requests that no gRPC client would send, many on one connection."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

_FRAME = 1 << 14
_CODES = {str(code.value[0]): code for code in grpc.StatusCode}


def grpc_frame(message: bytes) -> bytes:
    """A message as gRPC has it in a body."""
    return struct.pack(">BI", 0, len(message)) + message


class Stream:
    """One request and what came back."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.headers: dict[str, str] = {}
        """Headers and trailers of the answer."""
        self.body = b""
        self.reset: int | None = None
        """The error code with which the other side, or the connection's end, broke it off."""
        self.answered = asyncio.Event()
        """Set with the first headers, or the end."""
        self.ended = asyncio.Event()

    @property
    def code(self) -> grpc.StatusCode | None:
        """The gRPC status, once it is there."""
        return _CODES.get(self.headers.get("grpc-status", ""))


class Http2:
    """A connection whose requests nobody checks but the server."""

    def __init__(
        self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._address = address
        self._reader, self._writer = reader, writer
        # In Latin-1, so that any byte can be sent.
        config = h2.config.H2Configuration(
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            header_encoding="latin-1",
        )
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._streams: dict[int, Stream] = {}
        self.settled = asyncio.Event()
        """Set once the server's settings are known, or the connection has ended."""
        self.closed = asyncio.Event()

    @property
    def max_streams(self) -> int:
        """How many streams at a time the server allows."""
        return int(self._connection.remote_settings.max_concurrent_streams)

    def open(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
        *,
        end: bool = True,
    ) -> Stream:
        """Begins a gRPC request.

        Args:
            path: its path.
            body: what is sent of the body; nothing by default.
            headers: more headers, or other values for the usual ones; None leaves one out.
            end: whether the request ends with it.

        Raises:
            ConnectionError: the connection has ended.
        """
        if self.closed.is_set():
            raise ConnectionError("the connection has ended")
        stream = Stream(self._connection.get_next_available_stream_id())
        self._streams[stream.number] = stream
        fields: dict[str, str | None] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": self._address,
            "content-type": "application/grpc",
            "te": "trailers",
            **(headers or {}),
        }
        encoded = [
            (name.encode("latin-1"), text.encode("latin-1"))
            for name, text in fields.items()
            if text is not None
        ]
        self._connection.send_headers(stream.number, encoded, end_stream=end and body is None)
        if body is not None:
            for start in range(0, len(body), _FRAME):
                self._connection.send_data(stream.number, body[start : start + _FRAME])
            if end:
                self._connection.end_stream(stream.number)
        self.flush()
        return stream

    def send(self, stream: Stream, body: bytes) -> None:
        """Send more of a body that was left open; nothing if the stream has ended."""
        if not stream.ended.is_set():
            self._connection.send_data(stream.number, body)
            self.flush()

    def end(self, stream: Stream, trailers: Mapping[str, str] | None = None) -> None:
        """End a body that was left open; with trailers, which no gRPC client sends."""
        if trailers is None:
            self._connection.end_stream(stream.number)
        else:
            encoded = [
                (name.encode("latin-1"), text.encode("latin-1")) for name, text in trailers.items()
            ]
            self._connection.send_headers(stream.number, encoded, end_stream=True)
        self.flush()

    def cancel(self, stream: Stream) -> None:
        """Resets a stream, as a caller who gives up does."""
        self._connection.reset_stream(stream.number, 8)
        self.flush()

    def take_nothing(self) -> None:
        """Allow no byte of the answers to requests that are opened from now on."""
        self._connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent."""
        self._writer.write(self._connection.data_to_send())

    async def read(self) -> None:
        """Read until the connection ends."""
        try:
            while data := await self._reader.read(1 << 16):
                for event in self._connection.receive_data(data):
                    self._hear(event)
                self.flush()
        except (OSError, h2.exceptions.ProtocolError):
            pass  # it says something after its end, a server that stops for example
        finally:
            for stream in self._streams.values():
                if not stream.ended.is_set():
                    stream.reset = -1
                    stream.answered.set()
                    stream.ended.set()
            self.closed.set()
            self.settled.set()  # nobody waits for what won't come

    def _hear(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled.set()
            return
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            stream.headers |= {str(name): str(text) for name, text in event.headers or ()}
            stream.answered.set()
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data or b""
            self._connection.acknowledge_received_data(
                event.flow_controlled_length or 0, stream.number
            )
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code or 0)
            stream.answered.set()
            stream.ended.set()
        elif isinstance(event, h2.events.StreamEnded):
            stream.answered.set()
            stream.ended.set()

    def close(self) -> None:
        """End the connection without a word."""
        self._writer.close()


@asynccontextmanager
async def http2(address: str, local: str = "127.0.0.1") -> AsyncIterator[Http2]:
    """A connection to host:port, open within the block; `local` is the address it comes from."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(local, 0))
    connection = Http2(address, reader, writer)
    connection.flush()
    reading = asyncio.ensure_future(connection.read())
    try:
        async with asyncio.timeout(30):
            await connection.settled.wait()
        yield connection
    finally:
        connection.close()
        await reading
