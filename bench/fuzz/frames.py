"""Requests below gRPC: HTTP/2 that no gRPC client sends, on a connection with good calls."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import TypeAlias

import h2.exceptions

from bench.fuzz.calls import Method
from bench.fuzz.messages import valid
from tests.builders.http2 import Stream, grpc_frame, http2

Headers: TypeAlias = dict[str, str | None]
Spoil: TypeAlias = Callable[[Random, Headers, bytes], bytes]
_PATIENCE = 10.0
_POLL = 0.005
_MAX_MESSAGE = 60_000
"""Bytes of a message that HTTP/2's first window has room for, beside two good calls."""
_GOOD = "/grpc.health.v1.Health/Check"
"""What the others on a connection ask for, with an empty message."""
BROKEN = "BROKE OTHERS"
"""A request ended others on its connection."""


def _header(name: str, *values: str | None) -> Spoil:
    """Return a way to spoil a request by one of some values of a header; None leaves it out."""

    def spoil(random: Random, headers: Headers, body: bytes) -> bytes:
        headers[name] = random.choice(values)
        return body

    return spoil


def _path(random: Random, headers: Headers, body: bytes) -> bytes:
    service = str(headers[":path"]).rpartition("/")[0]
    headers[":path"] = random.choice(
        (f"{service}/Guess", service, "/", "//", "/a/b/c", f"{service}/%00", "/" + "x" * 5_000)
    )
    return body


def _metadata(random: Random, headers: Headers, body: bytes) -> bytes:
    """Spoil a value that services pass on to others."""
    headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    name = random.choice(("x-request-id", "tracestate", "traceparent", "baggage"))
    odd = random.choice(("-\u00c3\u00a9", "-a\tb", "-\x7f", "-\x01", "-" + "\u00ff" * 200))
    headers[name] = (headers.get(name) or "") + odd
    return body


def _compressed(random: Random, headers: Headers, body: bytes) -> bytes:
    """Return a frame that claims to be compressed, and can't be read."""
    headers["grpc-encoding"] = random.choice(("gzip", "deflate"))
    whole = gzip.compress(body[5:] + random.randbytes(50))
    corrupt = whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
    wrong_checksum = whole[:-8] + bytes(8)
    cut = whole[: random.randrange(1, len(whole))]
    data = random.choice((random.randbytes(40), b"", cut, corrupt, wrong_checksum))
    return struct.pack(">BI", 1, len(data)) + data


def _undeclared(random: Random, headers: Headers, body: bytes) -> bytes:
    """Return a compressed frame of a request that declares no compression."""
    if random.random() < 0.5:
        headers["grpc-encoding"] = "identity"
    data = gzip.compress(body[5:])
    return struct.pack(">BI", random.choice((1, 2, 255)), len(data)) + data


def _forbidden(random: Random, headers: Headers, body: bytes) -> bytes:
    """Add a header that HTTP/2 forbids."""
    name = random.choice([*_FORBIDDEN])
    headers[name] = _FORBIDDEN[name]
    return body


_FORBIDDEN = {
    "connection": "close",
    "keep-alive": "timeout=5",
    "proxy-connection": "close",
    "transfer-encoding": "chunked",
    "upgrade": "h2c",
    "X-Upper": "1",
    "x-newline": "a\nb: c",
    "x-null": "a\0b",
    ":status": "200",
    "x y": "1",
}
_TYPES = ("", "text/plain", "application/json", "application/grpc+xml", "application/grpcx")
SPOILT: Mapping[str, Spoil] = {
    "content type": _header("content-type", *_TYPES, "a" * 500),
    "verb": _header(":method", "GET", "PUT"),
    "path": _path,
    "short frame": lambda random, _, body: (
        struct.pack(">BI", 0, len(body) + random.choice((1, 100, 1 << 30))) + body[5:]
    ),
    "half a prefix": lambda random, _, body: body[: random.randrange(5)],
    "trailing bytes": lambda random, _, body: body + random.randbytes(random.randrange(1, 9)),
    "no te": _header("te", None),
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
    headers: Headers = {":path": method.path, "grpc-timeout": "5S"}
    frame = grpc_frame(message if len(message) <= _MAX_MESSAGE else b"")
    body = SPOILT_AT_THE_EDGE[how](random, headers, frame)
    try:
        async with asyncio.timeout(_PATIENCE), http2(method.address) as connection:
            before = connection.open(_GOOD, grpc_frame(b""))
            asked = connection.open(method.path, body, headers)
            after = connection.open(_GOOD, grpc_frame(b""))
            await before.ended.wait()
            await after.ended.wait()
            # A stream that may go on is answered with its first message.
            while not asked.ended.is_set() and not asked.body:  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
    except TimeoutError:
        return "HUNG: no answer"
    except (OSError, h2.exceptions.ProtocolError) as error:
        return f"{BROKEN}: {error}"
    for other in (before, after):
        if not (ended := _described(other)).startswith("OK"):
            return f"{BROKEN}: {ended}, itself {_described(asked)}"
    return _described(asked)


def _described(stream: Stream) -> str:
    if stream.code is not None:
        return f"{stream.code.name}: {stream.headers.get('grpc-message', '')}"
    if stream.reset == -1:
        return "CLOSED: without an answer"
    if stream.reset is not None:
        return f"RESET: {stream.reset}"
    if stream.body and not stream.ended.is_set() and stream.headers.get(":status") == "200":
        return "OK"
    return f"HTTP {stream.headers.get(':status', '?')}"
