"""How it is told whether a process is healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.releases.s3 import S3Settings
from server.stack.s3 import answers, stores

Probe: TypeAlias = Callable[[], Awaitable[str]]
"""Gives why the process is not healthy; an empty string when it is."""

_TIMEOUT = 2.0
# Without a pool of its own, a new channel to an address inherits the old one's back-off.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


def grpc_probe(port: int, service: str, host: str = "127.0.0.1") -> Probe:
    """Asks grpc.health.v1 for a service by its full name; an IPv6 host in brackets."""

    async def probe() -> str:
        async with grpc.aio.insecure_channel(f"{host}:{port}", options=_OPTIONS) as channel:
            stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            request = health_pb2.HealthCheckRequest(service=service)
            try:
                response = await stub.Check(request, timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                return f"{service} on port {port}: {error.code().name}"
        if response.status == health_pb2.HealthCheckResponse.SERVING:
            return ""
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return f"{service} on port {port} is {status}"

    return probe


def s3_probe(server: S3Settings) -> Probe:
    """Has the S3 server keep an object once, and from then on asks for its bucket."""
    stored = False

    async def probe() -> str:
        nonlocal stored
        stored = await asyncio.to_thread(answers if stored else stores, server)
        return "" if stored else f"it keeps nothing yet at {server.endpoint}"

    return probe
