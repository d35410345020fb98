"""Whether the ports that a stack needs are free, told before anything starts."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from server.errors import VireoError


class PortTakenError(VireoError):
    """Another program listens on a port that the stack needs."""


def check_ports_free(ports: Mapping[int, str], host: str = "127.0.0.1") -> None:
    """Raises PortTakenError, naming port and setting, unless every port can be bound.

    Args:
        ports: each port with the setting that moves it.
        host: the address that they are bound on.
    """
    for port, setting in sorted(ports.items()):
        with socket.socket() as probe:
            # As servers do: a connection that lingers after its server is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise PortTakenError(
                    f"port {port} on {host} can't be bound ({error.strerror}); "
                    f"stop what uses it, or choose another with {setting}"
                ) from error
