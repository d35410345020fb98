"""What a process tells Prometheus: one HTTP endpoint."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from server.errors import VireoError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class MetricsEndpoint:
    """The HTTP endpoint, answering in a thread of its own until it is closed."""

    _server: WSGIServer
    _thread: threading.Thread

    @staticmethod
    def open(
        port: int, registry: CollectorRegistry = REGISTRY, host: str = LOOPBACK
    ) -> MetricsEndpoint:
        """Begins to answer at http://<host>:<port>/metrics.

        Raises:
            VireoError: the port is taken, or the host isn't this machine's.
        """
        try:
            return MetricsEndpoint(*start_http_server(port, host, registry))
        except OSError as error:
            raise VireoError(
                f"can't show metrics on {host}:{port}: {error.strerror}; stop the other process, "
                "or choose another port: with VIREO_METRICS_PORT (0 for none) for a process by "
                "itself, with VIREO_PORT_BASE under `vireo up`"
            ) from error

    @property
    def port(self) -> int:
        """Where it answers."""
        port: int = self._server.server_port
        return port

    def close(self) -> None:
        """Frees the port; returns once the thread has ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
