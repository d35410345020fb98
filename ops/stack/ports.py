"""Checks that the ports of a stack are free before anything starts, and finds some that are."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vireo.ops.stack.die_with_parent import wrapped
from vireo.ops.stack.logs import last_lines, start_log
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, StackSettings
from vireo.server.errors import VireoError

_RESERVATIONS = 8
_reservations: dict[int, ExitStack] = {}
"""Locks on bases of this process: the newest ones, whose ports may not be bound yet, and those
whose ports were bound: a server that restarts must find its own free."""


class PortTakenError(VireoError):
    """Another program listens on a port that the stack needs."""


def check_ports_free(ports: Mapping[int, str]) -> None:
    """Raise PortTakenError unless every port, with the setting that moves it, can be bound."""
    for port, setting in sorted(ports.items()):
        with socket.socket() as probe:
            # As servers do: a lingering connection of an earlier server is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise PortTakenError(
                    f"port {port} on 127.0.0.1 can't be bound ({error.strerror}); "
                    f"stop what uses it, or choose another with {setting}"
                ) from error


def free_port_base() -> int:
    """Return a VIREO_PORT_BASE whose ports are all free, with the fourth for the edge.

    No other process on this machine gets it meanwhile: its ports look free until they are bound.
    Those of a stack with the default ones stay free: it may start at any time.

    Raises:
        VireoError: there is none.
    """
    for _ in range(100):
        # Metrics, at + 1000, end below what S3 has at + 10008, and that below clients' ports.
        base = random.randrange(11_000, 20_000, 100)  # noqa: S311
        if _looks_free(base) and _reserved(base):
            return base
    raise VireoError("no free ports for a stack from 11000 to 20000")


def _looks_free(base: int) -> bool:
    """Return whether all ports of a base can be bound, and none is a default one."""
    fields, ports = StackSettings.model_fields, _ports(base, base + 3)
    try:
        check_ports_free(ports)
    except PortTakenError:
        return False
    default = _ports(fields["port_base"].default, fields["edge_port"].default)
    return ports.keys().isdisjoint(default)


def _ports(base: int, edge: int) -> dict[int, str]:
    """Return the ports of a stack, whatever this process's environment says of its own."""
    settings = StackSettings(port_base=base, edge_port=edge, admin_port=base)
    return settings.ports(embedded_s3=True)


def _reserved(base: int) -> bool:
    """Reserve a base, with the ports of its metrics; return whether nobody had any of them.

    Give back old ones that are used no more.
    """
    with ExitStack() as locks:
        for ports in (base, base + METRICS_PORT_OFFSET):  # the latter may be another's base
            path = Path(tempfile.gettempdir()) / f"vireo-ports-{os.getuid()}-{ports}"
            file = locks.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        _reservations[base] = locks.pop_all()
    for old in [*_reservations][:-_RESERVATIONS]:
        if _looks_free(old):
            _reservations.pop(old).close()
    return True


_START_SECONDS, _STOP_SECONDS, _POLL_SECONDS = 30.0, 10.0, 0.1


@contextmanager
def temporary_server(
    command: list[str],
    log: Path,
    problem: Callable[[], str],
    environment: Mapping[str, str],
    folder: Path | None = None,
    *,
    start_seconds: float = _START_SECONDS,
    stop_seconds: float = _STOP_SECONDS,
) -> Iterator[int]:
    """Run a server in `folder` for a block, which begins once there is no `problem` any more.

    Yields its process id. At the end what it has started ends too, unless that has a process group
    of its own.

    Args:
        command: the server's.
        log: file of its output.
        problem: returns why it isn't ready; empty if it is.
        environment: all of its variables.
        folder: its working directory; this process's if None.
        start_seconds: maximum until it is ready.
        stop_seconds: from the request to end to the kill.

    Raises:
        VireoError: it ends or isn't ready in time; the message has what it wrote last.
    """
    start_log(log)
    with log.open("ab") as file:
        process = subprocess.Popen(
            wrapped(command),
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd=folder,
            env=environment,
        )

    def found() -> str:
        if process.poll() is None:
            return problem()
        raise VireoError(
            f"{Path(command[0]).name} ended with code {process.returncode}; see {log}: "
            f"{last_lines(log, 3)}"
        )

    try:
        await_ready(found, start_seconds)
        yield process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(stop_seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_ready(problem: Callable[[], str], seconds: float = _START_SECONDS) -> None:
    """Return once there is no problem; raise VireoError after some time."""
    deadline = time.monotonic() + seconds
    while found := problem():
        if time.monotonic() > deadline:
            raise VireoError(f"{found}; it was not ready after {seconds:g} s")
        time.sleep(_POLL_SECONDS)
