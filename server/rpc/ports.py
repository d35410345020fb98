"""A server's listening address, and the error if it can't be bound."""

from __future__ import annotations

from server.errors import VireoError


class PortTakenError(VireoError):
    """A server can't listen on its address."""

    def __init__(self, host: str, port: int) -> None:
        """Make the error for an address."""
        super().__init__(
            f"can't listen on {address(host, port)}: the port is taken or the address isn't this "
            "machine's; stop the other process or set VIREO_PORT"
        )


def address(host: str, port: int) -> str:
    """Return host:port, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
