"""Requests below gRPC: HTTP/2 that no gRPC client sends."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
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


_TYPES = ("", "text/plain", "application/json", "application/grpc+xml", "application/grpcx")
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
}
"""Ways to spoil a request: each changes the headers, and returns a body for the right one."""
SPOILT_AT_THE_EDGE: Mapping[str, Spoil] = {
    **SPOILT,
    "any verb": _header(":method", "DELETE", "HEAD", "OPTIONS", "PATCH", "FOO"),
    "no timeout": _header("grpc-timeout", "", "soon", "1", "-1S", "123456789S"),
    "encoding": _header("grpc-encoding", "", "snappy", "x" * 500),
}
"""Also what Envoy refuses, to which gRPC's core itself answers INTERNAL."""


async def ask_by_frames(random: Random, method: Method) -> tuple[str, str]:
    """Send one request on a connection of its own; return how it was spoilt, and how it ended."""
    ways = SPOILT_AT_THE_EDGE if method.place == "edge" else SPOILT
    how = random.choice(list(ways))
    message = valid(random, method.descriptor.input_type).SerializeToString()
    headers: Headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method.path,
        ":authority": method.address,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": "5S",
    }
    body = ways[how](random, headers, struct.pack(">BI", 0, len(message)) + message)
    try:
        async with asyncio.timeout(_PATIENCE):
            return how, await exchange(method.address, headers, body)
    except TimeoutError:
        return how, "HUNG: no answer"
    except (OSError, h2.exceptions.ProtocolError) as error:
        return how, f"CLOSED: {error}"


async def exchange(address: str, headers: Headers, body: bytes) -> str:
    """Send one request as it is; return its gRPC code and message, or else how it ended.

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
        connection.send_headers(1, list(headers.items()))
        for start in range(0, len(body), _WINDOW):
            connection.send_data(1, body[start : start + _WINDOW])
        connection.end_stream(1)
        writer.write(connection.data_to_send())
        await writer.drain()
        return await _status(reader, writer, connection)
    finally:
        writer.close()


async def _status(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    connection: h2.connection.H2Connection,
) -> str:
    """Return the status of the trailers, else that of HTTP, or how the stream was closed."""
    found: dict[str, str] = {}
    while data := await reader.read(65_536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                found |= {_text(name): _text(value) for name, value in event.headers or ()}
            elif isinstance(event, h2.events.DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                if "grpc-status" not in found and found.get(":status") == "200":
                    found["answered"] = "yes"  # a stream that may go on
            elif isinstance(event, h2.events.StreamReset):
                return found.get("grpc-status") or f"RESET: {event.error_code}"
            elif isinstance(event, h2.events.ConnectionTerminated):
                return f"CLOSED: {event.error_code}"
            elif isinstance(event, h2.events.StreamEnded):
                return _described(found)
        if "answered" in found:
            return "OK"
        writer.write(connection.data_to_send())
        await writer.drain()
    return _described(found) if found else "CLOSED: without an answer"


def _described(found: Mapping[str, str]) -> str:
    if "grpc-status" in found:
        return f"{_GRPC_CODES[found['grpc-status']]}: {found.get('grpc-message', '')}"
    return f"HTTP {found.get(':status', '?')}"


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
