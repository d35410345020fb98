"""A TCP proxy in front of the real S3 server, which fails on request."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from vireo.server.releases.s3 import S3Settings

Fault = Literal["none", "stops", "hangs", "silent", "refuses", "fails", "busy", "meets"]
"""stops: closes in mid-answer; hangs: goes quiet in mid-answer; silent: accepts, never answers;
refuses: answers 403; fails: answers 500; busy: answers 503; meets: answers 409."""
_ERRORS: dict[Fault, tuple[bytes, bytes]] = {
    "refuses": (b"403 Forbidden", b"AccessDenied"),
    "fails": (b"500 Internal Server Error", b"InternalError"),
    "busy": (b"503 Service Unavailable", b"SlowDown"),
    "meets": (b"409 Conflict", b"ConditionalRequestConflict"),
}
"""Status and code of each error."""
_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>%s</Code><Message>made by a test</Message></Error>"
)


@dataclass
class FaultyS3:
    """The proxy; set `fault` at any time."""

    settings: S3Settings
    """By which S3 is reached through it."""
    fault: Fault = "none"
    after_bytes: int = 0
    """How much of an answer comes before it stops or hangs."""
    only: bytes = b""
    """What a request's first line must contain for the fault to happen; any by default."""
    before_answer: Callable[[], object] | None = None
    """Called before a request that `only` matches is passed on."""
    requests: list[bytes] = field(default_factory=list)
    """Request lines with their Range headers, in the order of their arrival."""


@contextmanager
def faulty_s3(
    settings: S3Settings, port: int = 0, tls: ssl.SSLContext | None = None, **patience: float
) -> Iterator[FaultyS3]:
    """A proxy before the S3 server of `settings`, by TLS if there is a context for it.

    `patience` is that of requests through it.
    """
    with socket.create_server(("127.0.0.1", port)) as listener:
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        through = {"endpoint": endpoint, "secure": tls is not None}
        proxy = FaultyS3(settings.with_patience(**patience).model_copy(update=through))
        ended = threading.Event()

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(
                    target=_serve, args=(client, tls, settings.endpoint, proxy, ended), daemon=True
                ).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(
    accepted: socket.socket,
    tls: ssl.SSLContext | None,
    endpoint: str,
    proxy: FaultyS3,
    ended: threading.Event,
) -> None:
    """Answer the requests of one connection, one upstream connection each."""
    # A pod that gives up closes its connection, whatever is being sent.
    with (
        contextlib.suppress(OSError),
        tls.wrap_socket(accepted, server_side=True) if tls else accepted as client,
    ):
        while request := _request(client):
            lines = request.split(b"\r\n")
            ranges = [line for line in lines if line.lower().startswith(b"range:")]
            proxy.requests.append(b" ".join([lines[0], *ranges]))
            fault = proxy.fault if proxy.only in lines[0] else "none"
            if proxy.before_answer is not None and proxy.only in lines[0]:
                proxy.before_answer()
            if fault == "silent":
                ended.wait()
                return
            if fault in _ERRORS:
                status, code = _ERRORS[fault]
                body = _BODY % code
                client.sendall(
                    b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s"
                    % (status, len(body), body)
                )
                continue
            if not _forward(client, request, endpoint, fault, proxy, ended):
                return


def _forward(
    client: socket.socket,
    request: bytes,
    endpoint: str,
    fault: Fault,
    proxy: FaultyS3,
    ended: threading.Event,
) -> bool:
    """Passes one answer on; False where the connection is over."""
    host, port = endpoint.rsplit(":", 1)
    closing = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    sent = 0
    with socket.create_connection((host, int(port))) as server:
        server.sendall(closing)
        while chunk := server.recv(16384):
            if fault in ("stops", "hangs") and sent + len(chunk) > proxy.after_bytes:
                client.sendall(chunk[: max(0, proxy.after_bytes - sent)])
                if fault == "hangs":
                    ended.wait()
                return False
            sent += len(chunk)
            client.sendall(chunk)
    return False


def _request(client: socket.socket) -> bytes:
    """The next request with its body; empty where the connection has ended."""
    request = b""
    while b"\r\n\r\n" not in request or len(request) < _length(request):
        chunk = client.recv(65536)
        if not chunk:
            return b""
        request += chunk
    return request


def _length(request: bytes) -> int:
    """How many bytes a request has whose head is complete."""
    head = request.partition(b"\r\n\r\n")[0]
    size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return len(head) + 4 + (int(size[1]) if size else 0)
