"""Checks that the ports of a stack are free before anything starts, and finds some that are."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError

_RESERVATIONS = 8
_reservations: deque[TextIO] = deque(maxlen=_RESERVATIONS)
"""Locks on the newest bases of this process; a file that drops out is closed, and its ports are
bound by then."""


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


def free_port_base() -> int:
    """Return a VIREO_PORT_BASE whose ports are all free, with the fourth for the edge.

    No other process on this machine gets it meanwhile: its ports look free until they are bound.

    Raises:
        VireoError: there is none.
    """
    for _ in range(100):
        # Below the kernel's range of clients' ports, as is S3's + 10008.
        base = random.randrange(11_000, 21_000, 100)  # noqa: S311
        settings = StackSettings(port_base=base, edge_port=base + 3)
        try:
            check_ports_free(settings.ports(embedded_s3=True))
        except PortTakenError:
            continue
        if _reserved(base):
            return base
    raise VireoError("no free ports for a stack from 11000 to 21000")


def _reserved(base: int) -> bool:
    """Reserve a base; return whether nobody had."""
    file = (Path(tempfile.gettempdir()) / f"vireo-ports-{os.getuid()}-{base}").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _reservations.append(file)
    return True
