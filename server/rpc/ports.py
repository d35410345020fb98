"""Ports that several processes listen on together, and the error where a port is taken."""

from __future__ import annotations

import socket

from server.errors import VireoError


class PortTakenError(VireoError):
    """A server can't listen where it is to."""

    def __init__(self, host: str, port: int) -> None:
        """Takes the address."""
        super().__init__(
            f"can't listen on {address(host, port)}: the port is taken or the address isn't this "
            "machine's; stop the other process or set VIREO_PORT"
        )


def address(host: str, port: int) -> str:
    """host:port, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def hold(host: str, port: int) -> socket.socket:
    """A socket by which a port is this process's to share, for as long as it is open.

    Nobody can bind the port but this user's processes that set SO_REUSEPORT, and of these no
    second one that asks here. It doesn't listen, so no connection comes to it.

    Args:
        host: the address.
        port: the port; 0 takes a free one.

    Raises:
        PortTakenError: another process has it, also one that would share it.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # By itself the socket below would join a stranger that shares its port.
        with socket.socket(family) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
        held = socket.socket(family)
        try:
            # As servers do: a connection that lingers after its server is no obstacle.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(where)
            # But two sockets that both have it could be bound at once while neither listens.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            held.close()
            raise
    except OSError as error:
        raise PortTakenError(host, port) from error
    return held
