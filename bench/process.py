"""A process that runs for as long as a measurement takes."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vireo.ops.stack.die_with_parent import wrapped
from vireo.server.errors import VireoError

_POLL = 0.05
_HEALTH_SECONDS = 2.0
_GRACE_SECONDS = 10.0


@contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    patience: float = 240.0,
) -> Iterator[int]:
    """Run a process until the block ends, or this process does; yield its id once it is ready.

    At its end, all processes that it has started are ended, too.

    Args:
        command: its command line.
        log: file for its output; errors name it.
        ready: polled until it returns True.
        environment: all of its variables.
        folder: its working directory.
        patience: maximum seconds until it is ready.

    Raises:
        VireoError: it ended, or isn't ready in time.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            wrapped([*map(str, command)]),
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + patience
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise VireoError(f"{log.stem} did not start; see {log}")
            time.sleep(_POLL)
        yield process.pid
    finally:
        started: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.kill()
        process.wait()


def serves(address: str, service: str = "") -> bool:
    """Return whether the health check of a service at host:port says SERVING."""
    # Without a pool of its own, a new channel to an address inherits the old one's backoff.
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = stub.Check(request, timeout=_HEALTH_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and all that it has started, in steps of 10 ms.

    Processes that have ended don't count.
    """
    process, total = psutil.Process(pid), 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def memory_of(pid: int, cache: Path) -> float:
    """Return megabytes (10**6 bytes) resident, with all of the files below `cache` that it maps."""
    process = psutil.Process(pid)
    files = [area for area in process.memory_maps() if area.path.startswith(str(cache))]
    unread = sum(area.size - area.rss for area in files)
    return float(process.memory_info().rss + unread) / 1e6
