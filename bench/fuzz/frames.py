"""Requests below gRPC: HTTP/2 that no gRPC client sends, on a connection with good calls."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeAlias

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions

from bench.fuzz.messages import valid
from bench.fuzz.targets import Method

Headers: TypeAlias = dict[str, str]
Spoil: TypeAlias = Callable[[Random, Headers, bytes], bytes]
_PATIENCE = 10.0
_GRPC_CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}
_WINDOW = 16_384
_MAX_MESSAGE = 60_000
"""Bytes of a message that HTTP/2's first window has room for, beside two good calls."""
_GOOD = "/grpc.health.v1.Health/Check"
"""What the others on a connection ask for, with an empty message."""
BROKEN = "BROKE OTHERS"
"""A request ended others on its connection."""

_TYPES = ("", "text/plain", "application/json", "application/grpc+xml", "application/grpcx")


def _header(name: str, *values: str) -> Spoil:
    """Return a way to spoil a request by one of some values of a header."""

    def spoil(random: Random, headers: Headers, body: bytes) -> bytes:
        headers[name] = random.choice(values)
        return body

    return spoil


def _path(random: Random, headers: Headers, body: bytes) -> bytes:
    service = headers[":path"].rpartition("/")[0]
    headers[":path"] = random.choice(
        (f"{service}/Guess", service, "/", "//", "/a/b/c", f"{service}/%00", "/" + "x" * 5_000)
    )
    return body


def _short_frame(random: Random, _: Headers, body: bytes) -> bytes:
    """Return a frame that announces more than follows."""
    return struct.pack(">BI", 0, len(body) + random.choice((1, 100, 1 << 30))) + body[5:]


def _no_te(_: Random, headers: Headers, body: bytes) -> bytes:
    del headers["te"]
    return body


def _metadata(random: Random, headers: Headers, body: bytes) -> bytes:
    """Spoil a value that services pass on to others."""
    headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    name = random.choice(("x-request-id", "tracestate", "traceparent", "baggage"))
    headers[name] = headers.get(name, "") + random.choice(
        ("-\u00e9\u4e16", "-a\tb", "-\x7f", "-\x01", "-" + "\u00ff" * 200)
    )
    return body


def _compressed(random: Random, headers: Headers, body: bytes) -> bytes:
    """Return a frame that claims to be compressed, and can't be read."""
    headers["grpc-encoding"] = random.choice(("gzip", "deflate"))
    whole = gzip.compress(body[5:] + random.randbytes(50))
    data = random.choice(
        (
            random.randbytes(40),
            b"",
            whole[: random.randrange(1, len(whole))],
            whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:],
            whole[:-8] + bytes(8),  # another checksum and size
        )
    )
    return struct.pack(">BI", 1, len(data)) + data


def _undeclared(random: Random, headers: Headers, body: bytes) -> bytes:
    """Return a compressed frame of a request that declares no compression."""
    if random.random() < 0.5:
        headers["grpc-encoding"] = "identity"
    data = gzip.compress(body[5:])
    return struct.pack(">BI", random.choice((1, 2, 255)), len(data)) + data


def _forbidden(random: Random, headers: Headers, body: bytes) -> bytes:
    """Add a header that HTTP/2 forbids."""
    name, value = random.choice(
        (
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("X-Upper", "1"),
            ("x-newline", "a\nb: c"),
            ("x-null", "a\0b"),
            (":status", "200"),
            ("x y", "1"),
        )
    )
    headers[name] = value
    return body


SPOILT: Mapping[str, Spoil] = {
    "content type": _header("content-type", *_TYPES, "a" * 500),
    "verb": _header(":method", "GET", "PUT"),
    "path": _path,
    "short frame": _short_frame,
    "half a prefix": lambda random, _, body: body[: random.randrange(5)],
    "trailing bytes": lambda random, _, body: body + random.randbytes(random.randrange(1, 9)),
    "no te": _no_te,
    "timeout": _header("grpc-timeout", "0n", "1n", "99999999H", "1m"),
    "metadata": _metadata,
    "compressed": _compressed,
}
"""Ways to spoil a request: each changes the headers, and returns a body for the right one."""
SPOILT_AT_THE_EDGE: Mapping[str, Spoil] = {
    **SPOILT,
    "any verb": _header(":method", "DELETE", "HEAD", "OPTIONS", "PATCH", "FOO"),
    "no timeout": _header("grpc-timeout", "", "soon", "1", "-1S", "123456789S"),
    "encoding": _header("grpc-encoding", "", "snappy", "x" * 500),
    "undeclared": _undeclared,
    "forbidden header": _forbidden,
}
"""Also what Envoy refuses, to which gRPC's core itself answers INTERNAL."""


async def ask_by_frames(random: Random, method: Method) -> tuple[str, str]:
    """Send one request between two good ones; return how it was spoilt, and how it ended."""
    ways = SPOILT_AT_THE_EDGE if method.place == "edge" else SPOILT
    how = random.choice(list(ways))
    return how, await ask_spoilt(random, method, how)


async def ask_spoilt(random: Random, method: Method, how: str) -> str:
    """Send one request that is spoilt in a way; return how it ended.

    It shares a connection of its own with two good ones, the first sent before it. Unless both are
    answered, it is BROKEN.
    """
    message = valid(random, method.descriptor.input_type).SerializeToString()
    headers = _headers(method.address, method.path)
    if len(message) > _MAX_MESSAGE:
        message = b""
    frame = struct.pack(">BI", 0, len(message)) + message
    body = SPOILT_AT_THE_EDGE[how](random, headers, frame)
    good = _headers(method.address, _GOOD), bytes(5)
    try:
        async with asyncio.timeout(_PATIENCE):
            requests = (good, (headers, body), good)
            before, ended, after = await exchange_together(method.address, requests)
    except TimeoutError:
        return "HUNG: no answer"
    except (OSError, h2.exceptions.ProtocolError) as error:
        return f"{BROKEN}: {error}"
    for other in (before, after):
        if not other.startswith("OK"):
            return f"{BROKEN}: {other}, itself {ended}"
    return ended


def _headers(address: str, path: str) -> Headers:
    return {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": address,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": "5S",
    }


async def exchange(address: str, headers: Headers, body: bytes) -> str:
    """Send one request as it is; return how it ended, see `exchange_together`."""
    return (await exchange_together(address, [(headers, body)]))[0]


async def exchange_together(address: str, requests: Sequence[tuple[Headers, bytes]]) -> list[str]:
    """Send requests at once, as they are, each a stream of one connection.

    Returns:
        The gRPC code and message of each, or else how it ended.

    Raises:
        OSError: the connection can't be made or breaks.
        ProtocolError: what comes back isn't HTTP/2.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    # The server must say what is wrong, so nothing is checked here.
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    try:
        connection.initiate_connection()
        for stream, (headers, body) in zip(range(1, 2 * len(requests), 2), requests, strict=True):
            connection.send_headers(stream, list(headers.items()))
            for start in range(0, len(body), _WINDOW):
                connection.send_data(stream, body[start : start + _WINDOW])
            connection.end_stream(stream)
        writer.write(connection.data_to_send())
        await writer.drain()
        ended = await _statuses(reader, writer, connection, len(requests))
        return [ended[2 * number + 1] for number in range(len(requests))]
    finally:
        writer.close()


async def _statuses(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    connection: h2.connection.H2Connection,
    count: int,
) -> dict[int, str]:
    """Return by stream the status of the trailers, else that of HTTP, or how it was closed."""
    found: dict[int, dict[str, str]] = {2 * number + 1: {} for number in range(count)}
    ended: dict[int, str] = {}
    closed = "CLOSED: without an answer"
    while len(ended) < count and (data := await reader.read(65_536)):
        for event in connection.receive_data(data):
            stream = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.ConnectionTerminated):
                closed = f"CLOSED: {event.error_code}"
            if stream not in found:
                continue
            fields = found[stream]
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                fields |= {_text(name): _text(value) for name, value in event.headers or ()}
            elif isinstance(event, h2.events.DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                if "grpc-status" not in fields and fields.get(":status") == "200":
                    fields["answered"] = "yes"  # a stream that may go on
            elif isinstance(event, h2.events.StreamReset):
                ended[stream] = f"RESET: {event.error_code}"
            elif isinstance(event, h2.events.StreamEnded):
                ended[stream] = _described(fields)
        # A stream that may go on is answered once no other is waited for.
        open_streams = found.keys() - ended.keys()
        if all("answered" in found[stream] for stream in open_streams):
            ended |= dict.fromkeys(open_streams, "OK")
        writer.write(connection.data_to_send())
        await writer.drain()
    return {
        stream: ended.get(stream) or (_described(fields) if fields else closed)
        for stream, fields in found.items()
    }


def _described(found: Mapping[str, str]) -> str:
    if "grpc-status" in found:
        return f"{_GRPC_CODES[found['grpc-status']]}: {found.get('grpc-message', '')}"
    return f"HTTP {found.get(':status', '?')}"


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
