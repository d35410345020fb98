"""gRPC's server, as every process has it, and the guard around each method that it serves."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from vireo.server.rpc.reading import Handler
from vireo.server.rpc.settings import RpcSettings
from vireo.server.rpc.standard import MAX_STREAM_SECONDS

log = structlog.get_logger()

CONNECTION_AGE_GRACE = MAX_STREAM_SECONDS + 10
"""Seconds for which calls may continue on a connection that has reached its maximum age: watches
end within them. Envoy would count a reset as a failure of the pod."""
_KEEPALIVE_MS = 30_000
_MAX_CALLS_OF_A_CONNECTION = 1000
"""The same as Envoy's: further streams wait at the caller."""
_RECEIVE_LIMIT_FACTOR = 2
"""Messages are read up to this multiple of their maximum, so that the guard can refuse them: the
end of a stream then says what was done before. gRPC ends a call with a larger one by itself."""
_MAX_METADATA_BYTES = 80 << 10
"""More than the 60 KiB of headers that the edge accepts: REST's path is sent along as one. Beyond
8 KiB, gRPC's own limit would refuse some requests and accept others."""
_LOOP = "_server_main_loop"


class Methods:
    """Adds methods to a server, each with a guard around it.

    Generated code registers a service with it as with a grpc.aio.Server.
    """

    def __init__(self, server: grpc.aio.Server, guard: Callable[[str, Handler], Handler]) -> None:
        """Add to this server.

        Args:
            server: where methods are added.
            guard: returns the handler to serve instead of a method's own. That of a unary method
                may be one of a stream, to read the message itself by `only_message`.
        """
        self._server, self._guard = server, guard
        self.guarded: dict[str, Handler] = {}
        """The guarded handler of each method, by its path."""

    def add_generic_rpc_handlers(self, _: Sequence[grpc.GenericRpcHandler]) -> None:
        """Ignore them: generated code registers each method by its name too."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Handler]) -> None:
        """Add the methods of a service by their names."""
        guarded = {
            name: self._guard(f"/{service}/{name}", handler) for name, handler in methods.items()
        }
        self.guarded.update({f"/{service}/{name}": each for name, each in guarded.items()})
        self._server.add_registered_method_handlers(service, guarded)


def grpc_server(settings: RpcSettings) -> grpc.aio.Server:
    """Return gRPC's own server; nothing is bound yet."""
    # No maximum_concurrent_rpcs: it would refuse health checks too. The guard counts.
    options: list[tuple[str, Any]] = [
        ("grpc.max_concurrent_streams", _MAX_CALLS_OF_A_CONNECTION),
        # Two processes that share a port by mistake would each get half the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", _RECEIVE_LIMIT_FACTOR * settings.max_message_bytes),
        ("grpc.per_message_decompression", 0),  # see `decompressed`
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS // 3),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 3),
        ("grpc.enable_channelz", 1),
        # Pings after what arrives, to size windows for slow networks: they double an idle server's
        # wake-ups. Without, the window stays at 64 KiB: a larger request, of a viewer who watched
        # thousands of videos, takes another round trip.
        ("grpc.http2.bdp_probe", 0),
    ]
    if settings.max_connection_age:
        options += [
            ("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", round(CONNECTION_AGE_GRACE * 1000)),
        ]
    return grpc.aio.server(options=options)


def accept_loop_ended() -> asyncio.Future[None]:
    """Return a future that raises once the accept loop of a server of this event loop has ended.

    Every other failure of a task that nobody awaits is logged.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def on_failure(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        log.error("a task failed that nobody awaits", reason=context["message"], exc_info=error)
        frames = traceback.extract_tb(error.__traceback__) if error else ()
        if any(frame.name.endswith(_LOOP) for frame in frames) and not ended.done():
            ended.set_exception(
                RuntimeError("gRPC accepts no more calls: a request ended its accept loop")
            )

    loop.set_exception_handler(on_failure)
    return ended
