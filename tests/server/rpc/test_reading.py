"""Compressed messages: the whole ones are read, and the others are the caller's mistake."""

from __future__ import annotations

import asyncio
import gzip
import struct
import zlib
from pathlib import Path

import grpc
import pytest

from tests.builders.columns import request_for_one_video
from tests.builders.http2 import http2
from tests.builders.rpc import rpc_settings, serving
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc.reading import decompressed

METHOD = "/vireo.v1.RankingService/RankCandidates"
CHECK = "/grpc.health.v1.Health/Check"
MESSAGE = request_for_one_video().SerializeToString()
MAX_BYTES = 64 << 10
INVALID = grpc.StatusCode.INVALID_ARGUMENT
KINDS = {
    "gzip": ("gzip", gzip.compress(MESSAGE), grpc.StatusCode.OK),
    "gzip of two parts": ("gzip", gzip.compress(MESSAGE) * 2, INVALID),
    "gzip and more": ("gzip", gzip.compress(MESSAGE) + b"more", INVALID),
    "a part of gzip": ("gzip", gzip.compress(MESSAGE)[:-5], INVALID),
    "another checksum in gzip": ("gzip", gzip.compress(MESSAGE)[:-8] + bytes(8), INVALID),
    "no gzip": ("gzip", b"\xff nonsense", INVALID),
    "nothing as gzip": ("gzip", b"", INVALID),
    "deflate": ("deflate", zlib.compress(MESSAGE), grpc.StatusCode.OK),
    "a part of deflate": ("deflate", zlib.compress(MESSAGE)[:-5], INVALID),
    "no deflate": ("deflate", b"\xff nonsense", INVALID),
    "a bomb": ("gzip", gzip.compress(bytes(50 << 20)), grpc.StatusCode.RESOURCE_EXHAUSTED),
}


@pytest.mark.parametrize(("encoding", "sent", "code"), KINDS.values(), ids=KINDS.keys())
async def test_a_compressed_message_is_read_or_the_callers_mistake(
    release_folder: Path, encoding: str, sent: bytes, code: grpc.StatusCode
) -> None:
    settings = rpc_settings(max_message_bytes=MAX_BYTES)
    body = struct.pack(">BI", 1, len(sent)) + sent
    async with (
        serving(RANKING_POD, release_folder, settings=settings) as (server, _),
        http2(f"127.0.0.1:{server.port}") as connection,
        asyncio.timeout(30),
    ):
        headers = {"grpc-encoding": encoding}
        if code is not grpc.StatusCode.OK and sent:
            check = connection.open(CHECK, body, headers)
            await check.ended.wait()
            assert check.code is INVALID
        call = connection.open(METHOD, body, headers)
        await call.ended.wait()
    assert call.code is code


@pytest.mark.parametrize("message", [b"\x78\x01", b"\x78\x9c\x01", b"x", b"\x1f", b""])
def test_a_message_that_only_begins_as_if_it_were_compressed_is_left_as_it_is(
    message: bytes,
) -> None:
    # 78 01 is a message whose field 15 is 1.
    assert decompressed(message, MAX_BYTES) == message


def test_no_more_is_decompressed_than_shows_that_it_is_too_much() -> None:
    assert decompressed(gzip.compress(bytes(1 << 20)), 1_000) == bytes(1_001)
    assert decompressed(gzip.compress(bytes(1_000)), 1_000) == bytes(1_000)
