"""Checks a process's health."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from vireo.server.errors import VireoError
from vireo.server.rpc.tls import TlsFiles, open_channel

_CHECK = "/grpc.health.v1.Health/Check"


async def health_problem(
    address: str,
    service: str,
    timeout: float,  # noqa: ASYNC109
    tls: TlsFiles | None = None,
    role: str = "",
) -> str:
    """Return why a service isn't SERVING; an empty string if it is. Uses a new connection.

    Args:
        address: host:port, an IPv6 host in brackets.
        service: its full name.
        timeout: maximum seconds to wait for the response.
        tls: this process's own files for mutual TLS; None if the other process doesn't use it.
        role: the role that the other process's certificate must name.
    """
    try:
        channel = open_channel(address, tls, role)
    except VireoError as error:
        return str(error)
    async with channel:
        return await health_problem_on(channel, service, timeout)


async def health_problem_on(
    channel: grpc.aio.Channel,
    service: str,
    timeout: float,  # noqa: ASYNC109
) -> str:
    """Return why a service isn't SERVING; an empty string if it is. Uses an open channel."""
    check = channel.unary_unary(
        _CHECK,
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    try:
        response: health_pb2.HealthCheckResponse | None = await check(
            health_pb2.HealthCheckRequest(service=service), timeout=timeout
        )
    except grpc.aio.AioRpcError as error:
        return error.code().name
    if response is None:  # gRPC's result for a response that can't be parsed
        return "the response isn't a HealthCheckResponse"
    if response.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    known = health_pb2.HealthCheckResponse.ServingStatus.keys()
    number = response.status
    return str(known[number]) if 0 <= number < len(known) else f"status {number}"
