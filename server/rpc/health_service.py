"""grpc.health.v1.Health: the serving status of a server's services.

grpcio's own servicer writes to watchers while it holds the lock that a change of status needs. A
watcher that doesn't read would keep a server from ever reporting that it shuts down.
"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vireo.server.rpc.reading import Context

Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Reports the status of each service by its full name, and of the server as a whole by ""."""

    def __init__(self) -> None:
        """Start as SERVING, without services."""
        self._statuses = {"": Status.SERVING}
        self._changed = asyncio.Event()
        self._stopping = False

    def set(self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """Set a service's status; ignored once the server stops."""
        if self._stopping:
            return
        self._statuses[service] = status
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Report every service as NOT_SERVING from now on."""
        for service in self._statuses:
            self.set(service, Status.NOT_SERVING)
        self._stopping = True

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Status:  # noqa: N802
        """Return the status; NOT_FOUND for an unknown service."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return Status(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """Write the status now and whenever it changes; SERVICE_UNKNOWN if there is none."""
        written = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
            if status != written:
                await context.write(Status(status=status))
                written = status
            await changed.wait()
