"""A process's Prometheus metrics on an HTTP endpoint, and its probes beside them."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Literal

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from vireo.server.errors import VireoError

log = structlog.get_logger()

# By default each counter has a second series with the time of its first event.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUILD_INFO = Gauge("vireo_build_info", "1 for the version that runs.", ["version"])
BUILD_INFO.labels(version("vireo")).set(1)

LOOPBACK = "127.0.0.1"
MAX_CONNECTIONS = 128
"""Maximum open connections; a further one ends the oldest."""
MAX_SCRAPES = 4
"""Maximum scrapes that are collected at a time; further ones wait."""
_MAX_SECONDS = 5.0
"""Maximum seconds of a connection, however slowly it sends its request and reads the response."""
_LOOK_SECONDS = 0.5
"""Seconds between looks whether it is closed, or a connection late: each wakes an idle process."""
_RETRY_SECONDS = 0.5
"""Seconds until the next connection is accepted after a failure."""


class MetricsEndpoint(ThreadingTCPServer):
    """The HTTP endpoint, served by threads of its own until it is closed."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(
        self,
        port: int,
        registry: CollectorRegistry = REGISTRY,
        host: str = LOOPBACK,
        probes: Mapping[str, Callable[[], str]] | None = None,
    ) -> None:
        """Start to serve http://<host>:<port>/metrics.

        `probes` are further pages by their path: 503 with what they return, or 200 if it is empty.
        They are called in other threads.

        Raises:
            VireoError: the port is taken, or the host isn't this machine's.
        """
        self.registry, self.probes = registry, probes or {}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: dict[socket.socket, float] = {}
        """When each open connection began, the oldest first."""
        self._opening = threading.Lock()
        self.scraping = threading.Semaphore(MAX_SCRAPES)
        try:
            super().__init__((host, port), _Page)
        except OSError as error:
            raise VireoError(
                f"can't serve metrics on {host}:{port}: {error.strerror}; stop the other process, "
                "or choose another port: with VIREO_METRICS_PORT (0 for none) for a process by "
                "itself, with VIREO_PORT_BASE under `vireo up`"
            ) from error
        self.port: int = self.server_address[1]
        """The port that it listens on."""
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_LOOK_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Free the port; return once no request is accepted any more."""
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; if that fails, pause first, as the caller tries again at once."""
        try:
            return super().get_request()
        except OSError:  # out of file descriptors, say
            time.sleep(_RETRY_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        with self._opening:
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End connections that are late or too many; called often, and after each is accepted."""
        latest = time.monotonic() - _MAX_SECONDS
        with self._opening:
            for request, began in list(self._open.items()):
                if began > latest and len(self._open) <= MAX_CONNECTIONS:
                    break
                del self._open[request]
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)  # its thread then ends

    def is_open(self, request: Any) -> bool:
        """Return whether a connection may still be answered."""
        return request in self._open

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._opening:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Ignore a caller that was too slow or has gone; a collector's error is logged."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a page of metrics failed")


class _Page(BaseHTTPRequestHandler):
    timeout = _MAX_SECONDS
    server: MetricsEndpoint

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, kind = HTTPStatus.OK, "text/plain"
        if path in self.server.probes:
            problem = self.server.probes[path]()
            status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
            body = f"{problem or 'OK'}\n".encode()
        else:
            while not self.server.scraping.acquire(timeout=0.1):
                if not self.server.is_open(self.request):
                    return
            try:
                encode, kind = choose_encoder(self.headers.get("accept", ""))
                body = encode(self.server.registry)
            finally:
                self.server.scraping.release()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


MAX_LAG = 1.0
"""Seconds for which a scrape waits for the event loop."""
_LIVE_SECONDS = 2.0
"""Seconds within which an event loop that lives answers."""

LAG = Gauge(
    "vireo_event_loop_lag_seconds",
    f"How long the event loop took to answer this scrape; {MAX_LAG:g} if it is blocked.",
)


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
        if answers(loop, _LIVE_SECONDS):
            return ""
        return f"the event loop was silent for {_LIVE_SECONDS:g} s"

    return {"/live": live, "/ready": lambda: live() or ("" if serving() else "NOT_SERVING")}


@cache
def _disk_gauges() -> tuple[Gauge, Gauge]:
    """Return the gauges of disks, which only processes that write to some have."""
    free = Gauge(
        "vireo_disk_free_bytes",
        "Free space of the disk that holds a folder that the process writes.",
        ["folder"],
    )
    return free, Gauge("vireo_disk_size_bytes", "Size of that disk.", ["folder"])


def export_disk(folder: str, path: Path) -> None:
    """Export the space of the disk of a folder, called `folder` in labels, with every scrape."""
    free, size = _disk_gauges()
    free.labels(folder).set_function(partial(_bytes, path, "free"))
    size.labels(folder).set_function(partial(_bytes, path, "total"))


def _bytes(path: Path, which: Literal["free", "total"]) -> float:
    """Return the bytes that this user may still write, or all of the disk; NaN if it can't tell.

    The folder may not be there yet: the disk is that of the nearest one above it.
    """
    try:
        usage = shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists()))
    except OSError:
        return math.nan
    return usage.free if which == "free" else usage.total
