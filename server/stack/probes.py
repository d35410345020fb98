"""Health probes of processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from server.releases.s3 import S3Settings
from server.rpc.health import health_problem
from server.rpc.tls import TlsFiles
from server.stack.s3 import answers, stores

Probe: TypeAlias = Callable[[], Awaitable[str]]
"""Returns why the process is not healthy; an empty string if it is."""

_TIMEOUT = 2.0


def grpc_probe(
    port: int,
    service: str,
    host: str = "127.0.0.1",
    tls: TlsFiles | None = None,
    role: str = "",
) -> Probe:
    """Return a probe that checks a service by grpc.health.v1.

    Args:
        port: the port to connect to.
        service: its full name.
        host: the host to connect to; IPv6 in brackets.
        tls: this process's own files; None if the port doesn't use mutual TLS.
        role: the role that the server's certificate must name.
    """

    async def probe() -> str:
        problem = await health_problem(f"{host}:{port}", service, _TIMEOUT, tls, role)
        return f"{service} on port {port}: {problem}" if problem else ""

    return probe


def s3_probe(server: S3Settings) -> Probe:
    """Return a probe that stores an object in the S3 server once, and then checks the bucket."""
    stored = False

    async def probe() -> str:
        nonlocal stored
        stored = await asyncio.to_thread(answers if stored else stores, server)
        return "" if stored else f"it stores nothing yet at {server.endpoint}"

    return probe
