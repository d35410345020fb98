"""An HTTP server in this process, whose answers a test decides."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Request = BaseHTTPRequestHandler
Answer = Callable[[Request, bytes], object]
"""Answers a request, whose body is given."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *connection: Any) -> None:
        """Report what isn't a connection that either side has closed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*connection)


@contextmanager
def answering(answer: Answer, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Yield the port of a server that has `answer` answer each request, in a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with _Server(("127.0.0.1", port), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def reply(
    request: Request, status: int, body: bytes, content_type: str | None = "application/xml"
) -> None:
    """Answer with this status and body."""
    request.send_response(status)
    if content_type is not None:
        request.send_header("Content-Type", content_type)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
