"""What the processes of a stack listen on, and what a stranger without credentials gets there."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Literal, TypeAlias

import psutil

_HTTP1 = b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_SETTINGS_TYPE = 4
_SECONDS = 20.0

Answer: TypeAlias = Literal[
    "served", "asked for keys", "asked for a token", "asked for the log's token", "refused"
]


def listening(processes: Iterable[psutil.Process]) -> set[tuple[int, str, int]]:
    """Return process id, address and port of each socket that takes connections or datagrams."""
    return {
        # gRPC's are IPv6 sockets, bound to an IPv4 address.
        (process.pid, connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.laddr and not connection.raddr
    }


def unix_sockets(processes: Iterable[psutil.Process]) -> set[str]:
    """Return the paths of their Unix domain sockets."""
    return {
        str(connection.laddr)
        for process in processes
        for connection in process.net_connections("unix")
        if connection.laddr
    }


def answer(address: str | tuple[str, int]) -> Answer:
    """Return what whoever has no credentials gets at a TCP address or the path of a socket.

    It tries HTTP/1.1 and HTTP/2, which gRPC is, each in plain text and over TLS without a
    certificate of its own.
    """
    for tls in (False, True):
        received = _exchange(address, _HTTP1, tls=tls)
        if b'"auth_required":true' in received:
            return "asked for the log's token"  # NATS greets with what it asks for
        match _status(received):
            case 403:
                return "asked for keys"
            case 401:
                return "asked for a token"
            case 400 if not tls:
                pass  # SeaweedFS says so that TLS is spoken here
            case int():
                return "served"
        if _speaks_http2(_exchange(address, _HTTP2, tls=tls)):
            return "served"
    return "refused"


def _exchange(address: str | tuple[str, int], sent: bytes, *, tls: bool) -> bytes:
    """Return the first bytes of an answer; none if the connection is refused or ended."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as plain:
        plain.settimeout(_SECONDS)
        try:
            plain.connect(address)
            if not tls:
                plain.sendall(sent)
                return plain.recv(4096)
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"] if sent is _HTTP2 else ["http/1.1"])
            with context.wrap_socket(plain) as secured:
                secured.sendall(sent)
                return secured.recv(4096)
        except TimeoutError:
            raise
        except OSError:
            return b""


def _status(received: bytes) -> int | None:
    words = received.split()
    return int(words[1]) if received.startswith(b"HTTP/1.") else None


def _speaks_http2(received: bytes) -> bool:
    # The first frame of a server is its settings.
    return len(received) > 3 and not received.startswith(b"HTTP") and received[3] == _SETTINGS_TYPE
