"""Exposes a process's Prometheus metrics on an HTTP endpoint."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Gauge,
    disable_created_metrics,
    make_wsgi_app,
)

from server.errors import VireoError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

# By default each counter has a second series with the time of its first event.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUILD_INFO = Gauge("vireo_build_info", "1 for the version that runs.", ["version"])
BUILD_INFO.labels(version("vireo")).set(1)

LOOPBACK = "127.0.0.1"
MAX_SCRAPES = 16
"""Maximum concurrent connections, a thread each. A further one ends the oldest whose request hasn't
arrived yet; if there is none, it is closed."""
_MAX_SECONDS = 5.0
"""Seconds within which a request must arrive, and within which its response must be read."""


class _Arriving(io.RawIOBase):
    """Reads a request from a socket, until a deadline: however slowly its bytes arrive."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._ends = time.monotonic() + _MAX_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(max(1e-3, self._ends - time.monotonic()))
        return self._connection.recv_into(buffer)


class _Handler(WSGIRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Arriving(self.connection))

    def parse_request(self) -> bool:
        arrived = super().parse_request()
        self.server.arriving.pop(self.connection, None)
        self.connection.settimeout(_MAX_SECONDS)
        return arrived

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # By default 5: of a burst the kernel drops the rest, which retry after seconds.
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_SCRAPES)
        self.arriving: OrderedDict[socket.socket, None] = OrderedDict()
        """Connections whose request hasn't arrived yet, the oldest first."""
        self._closing = False
        super().__init__(*arguments)

    def serve_until_closed(self) -> None:
        """Serve without waking up twice a second to look for the end, as `serve_forever` does."""
        while not self._closing:
            self.handle_request()

    def end(self) -> None:
        """Let `serve_until_closed` return soon."""
        self._closing = True
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes it; accept then fails, which it ignores

    def process_request(self, request: Any, client_address: Any) -> None:
        if not (self._free.acquire(blocking=False) or self._take_oldest()):
            self.shutdown_request(request)
            return
        self.arriving[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def _take_oldest(self) -> bool:
        """End the oldest connection whose request hasn't arrived yet, and return whether it has."""
        try:
            oldest, _ = self.arriving.popitem(last=False)
            oldest.shutdown(socket.SHUT_RDWR)
        except KeyError:
            return False  # all are being answered
        except OSError:
            pass  # its caller has just ended it
        return self._free.acquire(timeout=1.0)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.arriving.pop(request, None)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a caller that leaves or stays silent is no failure of the server."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


@dataclass(frozen=True)
class MetricsEndpoint:
    """The HTTP endpoint, served in a thread of its own until it is closed."""

    _server: _Server
    _thread: threading.Thread

    @staticmethod
    def open(
        port: int,
        registry: CollectorRegistry = REGISTRY,
        host: str = LOOPBACK,
        beside: Callable[[WSGIApplication], WSGIApplication] = lambda app: app,
    ) -> MetricsEndpoint:
        """Start to serve http://<host>:<port>/metrics.

        `beside` adds pages to it.

        Raises:
            VireoError: the port is taken, or the host isn't this machine's.
        """
        try:
            kind = _ServerV6 if ":" in host else _Server
            server = make_server(host, port, beside(make_wsgi_app(registry)), kind, _Handler)
        except OSError as error:
            raise VireoError(
                f"can't serve metrics on {host}:{port}: {error.strerror}; stop the other process, "
                "or choose another port: with VIREO_METRICS_PORT (0 for none) for a process by "
                "itself, with VIREO_PORT_BASE under `vireo up`"
            ) from error
        thread = threading.Thread(target=server.serve_until_closed, name="metrics", daemon=True)
        thread.start()
        return MetricsEndpoint(server, thread)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._server.server_port
        return port

    def close(self) -> None:
        """Free the port; return once the thread has ended."""
        self._server.end()
        self._thread.join()
        self._server.server_close()
