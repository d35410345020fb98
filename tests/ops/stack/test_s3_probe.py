"""When the embedded S3 server counts as ready."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vireo.ops.stack.s3 import stores
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.s3 import S3Settings


@contextmanager
def one_object(content: bytes, *, writable: bool) -> Iterator[S3Settings]:
    """Yield an S3 server of one object, which keeps what is written to it if `writable`."""
    held = [content]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, held[0])

        def do_PUT(self) -> None:
            written = self.rfile.read(int(self.headers["Content-Length"]))
            if writable:
                held[0] = written
            self._answer(200 if writable else 500)

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield S3Settings(
                endpoint=f"127.0.0.1:{http.server_port}",
                access_key="key",
                secret_key="secret",  # type: ignore[arg-type]
            )
        finally:
            http.shutdown()
            thread.join()


def test_it_is_ready_if_it_returns_what_was_just_written() -> None:
    with one_object(b"1", writable=True) as server:
        assert stores(Bucket(server))


def test_it_is_not_ready_if_only_the_object_of_an_earlier_start_can_be_read() -> None:
    with one_object(b"1", writable=False) as server:
        assert not stores(Bucket(server))
