"""Connections and HTTP requests whose failures tell how a part fails."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from vireo.ops.doctor.facts import Clock, Fault

CONNECT_SECONDS = 1.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WORDS: dict[Fault, str] = {
    "": "it answers",
    "refused": "nothing listens there",
    "unreachable": "no packet comes back",
    "silent": "it accepts the connection and doesn't answer",
}
MAX_BYTES = 64 << 20
"""Bytes of a response beyond which the rest is left."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxy that variables may name: it is for what lies beyond the deployment."""


@dataclass(frozen=True)
class Response:
    """An HTTP response, whatever its status."""

    status: int
    body: str
    clock: Clock | None
    """The server's clock by its Date header; None without one."""


class UnansweredError(Exception):
    """A request without a response."""

    def __init__(self, fault: Fault, problem: str = "") -> None:
        """Name the fault; by default `problem` says the same in words."""
        super().__init__(problem or _WORDS.get(fault, fault))
        self.fault = fault


def words(fault: Fault) -> str:
    """Return a fault in words."""
    return _WORDS.get(fault, fault)


def split(address: str) -> tuple[str, int]:
    """Return host and port of "host:port", IPv6 in brackets; raise ValueError if it is none."""
    host, _, port = address.rpartition(":")
    if not host:
        raise ValueError(f"{address!r} isn't host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str | None) -> bool:
    """Return whether a host's name or address is this machine's."""
    return host in _LOOPBACK


def reach(address: str, seconds: float = CONNECT_SECONDS) -> Fault:
    """Return what a connection to host:port meets; empty if it is accepted."""
    try:
        with socket.create_connection(split(address), seconds):
            return ""
    except ConnectionRefusedError:
        return "refused"
    except OSError:  # also a name that isn't known, and a timeout
        return "unreachable"


def get(url: str, seconds: float) -> Response:
    """Return the response of an HTTP server.

    Raises:
        UnansweredError: there is none.
    """
    began = time.time()
    try:
        with _DIRECT.open(url, timeout=seconds) as page:
            body, status, headers = page.read(MAX_BYTES), page.status, page.headers
    except urllib.error.HTTPError as error:
        body, status, headers = error.read(MAX_BYTES), error.code, error.headers
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnansweredError(*_fault(error)) from error
    clock = _clock(url, headers.get("Date"), began, time.time())
    return Response(status, body.decode(errors="replace"), clock)


def _fault(error: Exception) -> tuple[Fault, str]:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ConnectionRefusedError):
        return "refused", ""
    if isinstance(reason, TimeoutError):
        # urllib wraps what happens until the request is sent, and nothing later.
        return ("unreachable" if isinstance(error, urllib.error.URLError) else "silent"), ""
    if isinstance(reason, socket.gaierror):
        return "unreachable", "the host's name isn't known"
    return "failed", str(reason) or type(reason).__name__


def _clock(source: str, date: str | None, began: float, ended: float) -> Clock | None:
    """Return a server's clock; its Date has whole seconds, and was written during the request."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    ours = (began + ended) / 2
    return Clock(source, theirs + 0.5 - ours, 0.5 + (ended - began) / 2)
