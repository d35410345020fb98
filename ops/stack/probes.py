"""A process to run, and how its health is probed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio

from vireo.server.errors import VireoError
from vireo.server.rpc.health import health_problem_on
from vireo.server.rpc.tls import TlsFiles, lasting_channel

Probe: TypeAlias = Callable[[], Coroutine[Any, Any, str]]
"""Returns why the process is not healthy; an empty string if it is."""

_TIMEOUT = 2.0
_MAX_ANSWER_BYTES = 4096
# A process that is started again is found at once. Without a pool of its own, the channel would
# share the backoff of others to the same address.
_OPTIONS = (
    ("grpc.http2.bdp_probe", 0),  # see server/rpc/server.py
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)


@dataclass(frozen=True)
class ProcessSpec:
    """One process to run."""

    name: str
    """The name, for example "ranking-1"."""
    command: list[str]
    port: int
    """The port that it listens on."""
    probe: Probe
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that are added to this process's own environment."""
    pool: str = ""
    """The pool that a pod belongs to."""
    awaited: bool = True
    """Whether the stack is ready only once it is healthy, and ends if it never is."""
    folder: Path | None = None
    """Its working directory; None for that of the stack."""
    max_unhealthy_seconds: float = math.inf
    """Seconds for which it may be unhealthy, once it was healthy, before it is started again."""


def grpc_probe(
    port: int,
    service: str,
    host: str = "127.0.0.1",
    tls: TlsFiles | None = None,
    role: str = "",
) -> Probe:
    """Return a probe that checks a service by grpc.health.v1, on one connection.

    Args:
        port: the port to connect to.
        service: its full name.
        host: the host to connect to; IPv6 in brackets.
        tls: this process's own files; None if the port doesn't use mutual TLS.
        role: the role that the server's certificate must name.
    """
    channel: grpc.aio.Channel | None = None

    async def probe() -> str:
        nonlocal channel
        if channel is None:
            try:
                channel = lasting_channel(f"{host}:{port}", tls, role, _OPTIONS)
            except VireoError as error:
                return str(error)
        problem = await health_problem_on(channel, service, _TIMEOUT)
        return f"{service or 'the server'} on port {port}: {problem}" if problem else ""

    return probe


def http_probe(port: int, path: str) -> Probe:
    """Return a probe that expects a GET of this path on loopback to succeed; it tells the body."""

    async def probe() -> str:
        try:
            async with asyncio.timeout(_TIMEOUT):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                    answer = await reader.read(_MAX_ANSWER_BYTES)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            return f"port {port}: {str(error) or 'no answer'}"
        head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
        status = head.partition("\r\n")[0]
        return "" if " 200 " in status else f"port {port} answers {path} with: {status} {body}"

    return probe
