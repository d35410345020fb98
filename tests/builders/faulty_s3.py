"""A proxy in front of the real S3 server, which fails on request."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from tests.builders.answering import Request, answering, reply
from vireo.server.releases.s3 import S3Settings

Fault = Literal["none", "stops", "hangs", "silent", "refuses", "fails", "busy", "meets"]
"""stops: closes in mid-answer; hangs: goes quiet in mid-answer; silent: accepts, never answers;
refuses: answers 403; fails: answers 500; busy: answers 503; meets: answers 409."""
_ERRORS: dict[Fault, tuple[int, bytes]] = {
    "refuses": (403, b"AccessDenied"),
    "fails": (500, b"InternalError"),
    "busy": (503, b"SlowDown"),
    "meets": (409, b"ConditionalRequestConflict"),
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
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the block ends, and with it whatever hangs."""


@contextmanager
def faulty_s3(
    settings: S3Settings, port: int = 0, tls: ssl.SSLContext | None = None, **patience: float
) -> Iterator[FaultyS3]:
    """A proxy before the S3 server of `settings`, by TLS if there is a context for it.

    `patience` is that of requests through it.
    """
    proxy = FaultyS3(settings.with_patience(**patience))

    def answer(request: Request, body: bytes) -> None:
        _answer(request, body, settings.endpoint, proxy)

    with answering(answer, port=port, tls=tls) as bound:
        through = {"endpoint": f"127.0.0.1:{bound}", "secure": tls is not None}
        proxy.settings = proxy.settings.model_copy(update=through)
        try:
            yield proxy
        finally:
            proxy.ended.set()


def _answer(request: Request, body: bytes, endpoint: str, proxy: FaultyS3) -> None:
    line = request.requestline.encode()
    ranges = request.headers.get_all("Range", [])
    proxy.requests.append(b" ".join([line, *(f"range: {each}".encode() for each in ranges)]))
    fault = proxy.fault if proxy.only in line else "none"
    if proxy.before_answer is not None and proxy.only in line:
        proxy.before_answer()
    if fault in _ERRORS:
        status, code = _ERRORS[fault]
        reply(request, status, _BODY % code)
        return
    request.close_connection = True
    if fault == "silent":
        proxy.ended.wait()
    else:
        _forward(request, body, endpoint, fault, proxy)


def _forward(request: Request, body: bytes, endpoint: str, fault: Fault, proxy: FaultyS3) -> None:
    """Pass a request on, and its answer as far as it goes."""
    host, _, port = endpoint.rpartition(":")
    headers = {**dict(request.headers.items()), "Connection": "close"}
    head = [request.requestline, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    sent = 0
    with socket.create_connection((host, int(port))) as server:
        server.sendall("\r\n".join(head).encode("latin-1") + body)
        while chunk := server.recv(16384):
            if fault in ("stops", "hangs") and sent + len(chunk) > proxy.after_bytes:
                request.wfile.write(chunk[: max(0, proxy.after_bytes - sent)])
                if fault == "hangs":
                    proxy.ended.wait()
                return
            sent += len(chunk)
            request.wfile.write(chunk)
