"""A process's Prometheus metrics on an HTTP endpoint, and its probes beside them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from importlib.metadata import version

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from vireo.server.errors import VireoError

# By default each counter has a second series with the time of its first event.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUILD_INFO = Gauge("vireo_build_info", "1 for the version that runs.", ["version"])
BUILD_INFO.labels(version("vireo")).set(1)

LOOPBACK = "127.0.0.1"
MAX_CONNECTIONS = 128
"""Maximum open connections; a further one ends the oldest."""
_MAX_SECONDS = 5.0
"""Maximum seconds of a connection, however slowly it sends its request and reads the response."""


@dataclass(frozen=True)
class _Pages:
    registry: CollectorRegistry
    probes: Mapping[str, Callable[[], str]]
    open: dict[asyncio.Timeout, None] = field(default_factory=dict)
    """Those of the open connections, the oldest first."""

    async def serve(self, listening: socket.socket, closed: asyncio.Event) -> None:
        """Serve on a socket until `closed` is set."""
        server = await asyncio.start_server(self._answer, sock=listening)
        await closed.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        if len(self.open) >= MAX_CONNECTIONS:
            oldest = next(iter(self.open))
            del self.open[oldest]
            if not oldest.expired():
                oldest.reschedule(0)
        writer.transport.set_write_buffer_limits(0)  # `drain` waits until all is sent
        try:
            async with asyncio.timeout(_MAX_SECONDS) as timeout:
                self.open[timeout] = None
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await asyncio.to_thread(self._response, head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # it was too slow, has gone, or sends something else
        finally:
            self.open.pop(timeout, None)
            writer.close()

    def _response(self, request_head: bytes) -> bytes:
        request, *fields = request_head.decode("latin-1").split("\r\n")
        path = f"{request} / /".split()[1].partition("?")[0]
        status, kind = HTTPStatus.OK, "text/plain"
        if path in self.probes:
            problem = self.probes[path]()
            status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
            body = f"{problem or 'OK'}\n".encode()
        else:
            headers = {each.partition(":")[0].lower(): each.partition(":")[2] for each in fields}
            encode, kind = choose_encoder(headers.get("accept", ""))
            body = encode(self.registry)
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\nDate: {formatdate(usegmt=True)}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class MetricsEndpoint:
    """The HTTP endpoint, served by an event loop in a thread of its own until it is closed."""

    port: int
    """The port that it listens on."""
    _loop: asyncio.AbstractEventLoop
    _thread: threading.Thread
    _closed: asyncio.Event

    @staticmethod
    def open(
        port: int,
        registry: CollectorRegistry = REGISTRY,
        host: str = LOOPBACK,
        probes: Mapping[str, Callable[[], str]] | None = None,
    ) -> MetricsEndpoint:
        """Start to serve http://<host>:<port>/metrics.

        `probes` are further pages by their path: 503 with what they return, or 200 if it is empty.
        They are called in other threads.

        Raises:
            VireoError: the port is taken, or the host isn't this machine's.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            raise VireoError(
                f"can't serve metrics on {host}:{port}: {error.strerror}; stop the other process, "
                "or choose another port: with VIREO_METRICS_PORT (0 for none) for a process by "
                "itself, with VIREO_PORT_BASE under `vireo up`"
            ) from error
        loop, closed = asyncio.new_event_loop(), asyncio.Event()
        work = _Pages(registry, probes or {}).serve(listening, closed)
        thread = threading.Thread(target=_run, args=(loop, work), name="metrics", daemon=True)
        port = listening.getsockname()[1]
        thread.start()
        return MetricsEndpoint(port, loop, thread, closed)

    def close(self) -> None:
        """Free the port; return once the thread has ended."""
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work)


MAX_LAG = 1.0
"""Seconds for which a scrape waits for the event loop."""
_MAX_SILENCE = 2.0
"""Seconds within which an event loop that lives answers."""

LAG = Gauge(
    "vireo_event_loop_lag_seconds",
    f"How long the event loop took to answer this scrape; {MAX_LAG:g} if it is blocked.",
)


def measure_lag(loop: asyncio.AbstractEventLoop) -> None:
    """Have every scrape measure the lag of `loop`; without scrapes it costs nothing."""
    LAG.set_function(partial(lag, loop))


def lag(loop: asyncio.AbstractEventLoop) -> float:
    """Return the seconds until `loop` runs a callback from another thread, at most MAX_LAG.

    In the loop's own thread, and once the loop is closed, it is 0.
    """
    if asyncio._get_running_loop() is loop or loop.is_closed():
        return 0.0
    began = time.monotonic()
    answers(loop, MAX_LAG)
    return min(time.monotonic() - began, MAX_LAG)


def answers(loop: asyncio.AbstractEventLoop, seconds: float) -> bool:
    """Return whether `loop` runs a callback from another thread within so many seconds.

    A loop that is closed doesn't.
    """
    answered = threading.Event()
    try:
        loop.call_soon_threadsafe(answered.set)
    except RuntimeError:  # it is closed
        return False
    return answered.wait(seconds)


def probe_pages(
    loop: asyncio.AbstractEventLoop, serving: Callable[[], bool]
) -> dict[str, Callable[[], str]]:
    """Return two pages by their path: each returns the problem, empty if what it asks holds.

    `/live` asks whether the process's event loop answers, `/ready` also whether the process reports
    SERVING. Pages, and `serving`, are called in other threads.
    """

    def live() -> str:
        if answers(loop, _MAX_SILENCE):
            return ""
        return f"the event loop was silent for {_MAX_SILENCE:g} s"

    return {"/live": live, "/ready": lambda: live() or ("" if serving() else "NOT_SERVING")}
