"""How it is told whether a process is healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from server.releases.s3 import S3Settings
from server.rpc.health import health_problem
from server.rpc.tls import TlsFiles
from server.stack.s3 import answers, stores

Probe: TypeAlias = Callable[[], Awaitable[str]]
"""Gives why the process is not healthy; an empty string when it is."""

_TIMEOUT = 2.0


def grpc_probe(
    port: int,
    service: str,
    host: str = "127.0.0.1",
    tls: TlsFiles | None = None,
    role: str = "",
) -> Probe:
    """Asks grpc.health.v1 for a service.

    Args:
        port: where.
        service: its full name.
        host: of the port; IPv6 in brackets.
        tls: our own files, where mutual TLS is spoken.
        role: what answers there, which its certificate must name.
    """

    async def probe() -> str:
        problem = await health_problem(f"{host}:{port}", service, _TIMEOUT, tls, role)
        return f"{service} on port {port}: {problem}" if problem else ""

    return probe


def s3_probe(server: S3Settings) -> Probe:
    """Has the S3 server keep an object once, and from then on asks for its bucket."""
    stored = False

    async def probe() -> str:
        nonlocal stored
        stored = await asyncio.to_thread(answers if stored else stores, server)
        return "" if stored else f"it keeps nothing yet at {server.endpoint}"

    return probe
