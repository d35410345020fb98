"""A gRPC server, from the bind to the last call."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
import uvloop
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_channelz.v1._async import ChannelzServicer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vireo.server.errors import VireoError
from vireo.server.rpc.budget import WAITING
from vireo.server.rpc.guard import Guard, ServiceLimits
from vireo.server.rpc.logs import flush_all
from vireo.server.rpc.metrics import LAG, MetricsEndpoint, lag, probe_pages
from vireo.server.rpc.reading import Handler
from vireo.server.rpc.settings import RpcSettings
from vireo.server.rpc.spans import end_export
from vireo.server.rpc.standard import HealthServicer, add_reflection
from vireo.server.rpc.streams import MAX_STREAM_SECONDS

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
_LAST_CALLS_SECONDS = 0.2


class RpcServer:
    """A gRPC server with health, reflection, channelz and the guard on every call.

    Every service starts as NOT_SERVING. Use it from one event loop.
    """

    def __init__(self, settings: RpcSettings) -> None:
        """Create the server; nothing is bound yet."""
        self._settings = settings
        self.guard = Guard(settings.access_log_share, settings.max_message_bytes)
        WAITING.set_function(lambda: self.guard.budget.waiting)
        self._server = grpc_server(settings)
        self._health = HealthServicer()
        self._names: list[str] = []
        self._metrics: MetricsEndpoint | None = None
        self.port = 0
        """The port that it listens on, once started."""
        self.serving = False
        """Whether it reports its services as SERVING."""

    def add(
        self,
        service: str,
        register: Callable[[Any], None],
        limits: ServiceLimits | None = None,
    ) -> None:
        """Add a service.

        Args:
            service: its full name.
            register: adds its servicer, with generated code.
            limits: what limits its calls; by default only what limits those of all services.
        """
        self.guard.limits[service] = limits or ServiceLimits()
        register(self)
        self._names.append(service)

    def add_generic_rpc_handlers(self, _: Sequence[grpc.GenericRpcHandler]) -> None:
        """Ignore them: generated code registers each method by its name too."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Handler]) -> None:
        """Add the methods of a service by their names; for generated code, which `add` calls."""
        guarded = {
            name: self.guard.guarded(f"/{service}/{name}", each) for name, each in methods.items()
        }
        self._server.add_registered_method_handlers(service, guarded)

    async def set_serving(self, serving: bool) -> None:
        """Report every service, and the server as a whole, as SERVING or NOT_SERVING."""
        self.serving = serving
        status = health_pb2.HealthCheckResponse
        for name in ("", *self._names):
            self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def start(self) -> None:
        """Bind the ports and start to serve.

        Raises:
            VireoError: an address can't be bound, for example because another process uses it; or a
                TLS file can't be read.
        """
        await self.set_serving(self.serving)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self)  # type: ignore[no-untyped-call]
        shown = [*self._names, health.SERVICE_NAME]
        if self._settings.reflection:
            channelz_pb2_grpc.add_ChannelzServicer_to_server(  # type: ignore[no-untyped-call]
                ChannelzServicer(), self
            )
            shown.append(channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name)
            add_reflection(self, shown)
        settings = self._settings
        self.port = self._bind()
        if settings.metrics_port:
            loop = asyncio.get_running_loop()
            LAG.set_function(lambda: lag(loop))
            pages = probe_pages(loop, lambda: self.serving)
            self._metrics = MetricsEndpoint(
                settings.metrics_port, host=settings.metrics_host, probes=pages
            )
        await self._server.start()
        log.info("listening", address=_address(settings.host, self.port), services=self._names)

    def _bind(self) -> int:
        address, tls = _address(self._settings.host, self._settings.port), self._settings.tls
        credentials = tls.server_credentials() if tls else None
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise VireoError(
                f"can't listen on {address}: the port is taken or the address isn't this "
                "machine's; stop the other process or set VIREO_PORT"
            ) from error

    async def drain(self) -> None:
        """Shut down in order: report NOT_SERVING, answer calls for a pause, then stop.

        After the pause new calls are refused, and those in flight have the grace period to end.
        Metrics are served until the end.
        """
        self.serving = False
        self._health.stop()
        log.info("draining", seconds=self._settings.drain_seconds)
        await asyncio.sleep(self._settings.drain_seconds)
        grace = self._settings.grace_seconds
        last = min(_LAST_CALLS_SECONDS, grace)
        # The guard refuses calls, not an early stop() of gRPC's server: that would wait all the
        # grace for health watches, and a second stop() to end it sooner can crash the process.
        self.guard.close()
        try:
            async with asyncio.timeout(grace - last):
                await self.guard.idle.wait()
        except TimeoutError:
            log.warning("calls still in flight", seconds_left=last)
        await self._server.stop(last)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
            self._metrics = None

    async def run(self, *owned: Awaitable[None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain. A second signal exits at once.

        Args:
            owned: work that runs as long as the server, for example a release loader's. If it
                fails, the server drains and the failure is raised.

        Raises:
            VireoError: the address can't be bound.
            RuntimeError: the server accepts no more calls; whoever started the process should
                restart it.
        """
        stop = _stop_signal()
        tasks: list[asyncio.Future[Any]] = [accept_loop_ended()]
        tasks += [asyncio.ensure_future(work) for work in owned]
        stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        try:
            await self.start()
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await self.drain()
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)
        for task in done - {stopped}:
            task.result()
            raise RuntimeError("work that should run as long as the server has ended")
        log.info("stopped")


def _address(host: str, port: int) -> str:
    """Return host:port, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; a second signal ends the process."""
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def run_process(serve: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run a server process; exit with 0 once drained, with 1 after an error."""
    code = 0
    loop = uvloop.new_event_loop()  # up to a tenth less processor time a slate
    try:
        loop.run_until_complete(serve())
    except Exception as failure:
        error = failure
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]  # of tasks that follow the log, for example
        if isinstance(error, VireoError):
            sys.stderr.write(f"error: {error}\n")
        else:
            log.exception("the process failed")
        code = 1
    end_export()
    flush_all()
    sys.stderr.flush()
    # Without waiting for a thread that may be in the middle of a download: files reach their
    # final names by rename.
    os._exit(code)


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
        log.error(
            "a task failed that nobody awaits", reason=context.get("message", ""), exc_info=error
        )
        frames = traceback.extract_tb(error.__traceback__) if error else ()
        if any(frame.name.endswith(_LOOP) for frame in frames) and not ended.done():
            ended.set_exception(
                RuntimeError("gRPC accepts no more calls: a request ended its accept loop")
            )

    loop.set_exception_handler(on_failure)
    return ended
