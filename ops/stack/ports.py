"""Checks that the ports of a stack are free before anything starts."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from vireo.server.errors import VireoError


class PortTakenError(VireoError):
    """Another program listens on a port that the stack needs."""


def check_ports_free(ports: Mapping[int, str], host: str = "127.0.0.1") -> None:
    """Raise PortTakenError, naming port and setting, unless every port can be bound.

    Args:
        ports: each port with the setting that moves it.
        host: the address to bind them on.
    """
    for port, setting in sorted(ports.items()):
        with socket.socket() as probe:
            # As servers do: a lingering connection of an earlier server is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise PortTakenError(
                    f"port {port} on {host} can't be bound ({error.strerror}); "
                    f"stop what uses it, or choose another with {setting}"
                ) from error
