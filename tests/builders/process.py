"""Starts server processes of ours and waits until they serve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def start(
    module: str, log: Path, environment: Mapping[str, str], *flags: str
) -> subprocess.Popen[bytes]:
    """Start `python -m module`, without this process's own VIREO settings, logging to `log`."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("VIREO_")}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            env={**inherited, **environment},
            stdout=file,
            stderr=file,
        )


@contextmanager
def watched_channel(port: int) -> Iterator[grpc.Channel]:
    """A channel to a process on this port that looks for it often."""
    options = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 50)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


def health_of(channel: grpc.Channel) -> Iterator[int]:
    """What the process behind `channel` reports of itself, once it is there: at first and anew."""
    stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=120, wait_for_ready=True):
        yield answer.status


def wait_for_status(statuses: Iterator[int], status: int) -> None:
    """Return once one of these is `status`."""
    for each in statuses:
        if each == status:
            return
    raise AssertionError("the watch has ended")


def wait_for_health(channel: grpc.Channel, status: int) -> None:
    """Return once the process behind `channel` reports `status`."""
    wait_for_status(health_of(channel), status)
