"""A pod beside those of a stack, which neither the control plane nor Envoy knows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.control.mesh import GRPC_SERVICES, Service
from server.errors import VireoError
from server.rpc.health import health_problem
from server.stack.processes import ProcessSpec

_OFFSET = 5
"""Its port, after that of the pod that it is like."""
_START_SECONDS = 240.0


@dataclass(frozen=True)
class AnotherPod:
    """A pod that serves."""

    address: str
    """host:port."""
    pid: int
    started: float
    """Seconds from its process's start until it served."""


@contextmanager
def another_pod(
    like: ProcessSpec, service: Service, environment: Mapping[str, str], logs: Path
) -> Iterator[AnotherPod]:
    """Runs another pod until the block ends.

    Args:
        like: a pod of the stack.
        service: what it serves.
        environment: what it gets besides and instead of that pod's.
        logs: folder of its log.

    Raises:
        VireoError: it does not start; the message names its log.
    """
    port = like.port + _OFFSET
    log = logs / f"another-{service}.log"
    own = {"VIREO_PORT": str(port), "VIREO_POD_NAME": log.stem, "VIREO_METRICS_PORT": "0"}
    begun = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            like.command,
            env={**os.environ, **like.environment, **environment, **own},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"127.0.0.1:{port}"
        while asyncio.run(health_problem(address, GRPC_SERVICES[service], 2.0)):
            if process.poll() is not None or time.monotonic() > begun + _START_SECONDS:
                raise VireoError(f"another {service} pod did not start; see {log}")
            time.sleep(0.05)
        yield AnotherPod(address, process.pid, time.monotonic() - begun)
    finally:
        process.terminate()
        process.wait()
