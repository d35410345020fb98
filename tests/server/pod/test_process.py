"""The pods as processes, each with the real S3 server."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.http2 import grpc_frame, http2
from tests.builders.process import (
    health_of,
    start,
    wait_for_health,
    wait_for_status,
    watched_channel,
)
from tests.builders.waiting import wait_until
from vireo.ops.stack.ports import free_port_base
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import release_pb2
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

pytestmark = pytest.mark.integration
MODULES = ("vireo.server.candidate", "vireo.server.ranking")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Starts = Callable[..., subprocess.Popen[bytes]]
UNTIL_NICE = """
import os, runpy, sys
def nice(by):
    print(by, sorted({"google", "grpc", "numpy", "onnxruntime"}.intersection(sys.modules)))
    sys.exit()
os.nice = nice
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
"""Runs a process up to the change of its niceness; prints that, and what it has imported."""


@pytest.fixture
def port() -> int:
    """One that is free, with those next to it, and that no client is given before it is bound."""
    return free_port_base()


@pytest.fixture(scope="session")
def environment(
    s3: S3Settings, release_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Settings of pods that follow a channel with a release."""
    store = ReleaseStore(s3)
    store.publish(release_folder)
    store.change_channel("processes", Change("tiny-1"), store.read_channel("processes"))
    return {
        **s3.environment(),
        "VIREO_CHANNEL": "processes",
        "VIREO_CACHE": str(tmp_path_factory.mktemp("cache")),
        "VIREO_DRAIN_SECONDS": "0.1",
        "VIREO_ACCESS_LOG_SHARE": "0",  # a sampled call would be a line more
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of the process that was started last."""
    return tmp_path / "log"


@pytest.fixture
def starts(environment: dict[str, str], port: int, log: Path) -> Iterator[Starts]:
    """Starts a pod on `port`, with further settings and flags; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start_pod(
        module: str = MODULES[1], *flags: str, **settings: str
    ) -> subprocess.Popen[bytes]:
        changes = {f"VIREO_{name.upper()}": value for name, value in settings.items()}
        flags = ("--port", str(port), *flags)
        started.append(start(module, log, {**environment, **changes}, *flags))
        return started[-1]

    yield start_pod
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("module", MODULES)
def test_process_serves_its_channel_and_drains_on_sigterm(
    module: str, environment: dict[str, str], starts: Starts, port: int, log: Path
) -> None:
    # For as long as it can be seen to drain.
    process = starts(module, "--pod-name", "pod-7", drain_seconds="2")
    with watched_channel(port) as channel:
        health = health_of(channel)
        wait_for_status(health, SERVING)
        state = ReleaseServiceStub(channel).GetServingRelease(
            release_pb2.GetServingReleaseRequest()
        )
        assert (state.release_id, state.channel, state.origin, state.pod) == (
            "tiny-1",
            "processes",
            "s3",
            "pod-7",
        )
        assert state.state == release_pb2.RELEASE_STATE_SERVING
        assert state.serving_since.seconds > 0
        process.send_signal(signal.SIGTERM)
        wait_for_status(health, NOT_SERVING)
    assert process.wait(60) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = [line["event"] for line in lines]
    served = ["starting", "listening", "serving release", "stopping", "draining", "stopped"]
    assert events == served
    assert {line["pod"] for line in lines} == {"pod-7"}
    assert environment["VIREO_S3_SECRET_KEY"] not in log.read_text()
    assert lines[0]["settings"]["s3"]["secret_key"] == "**********"


def test_process_without_s3_and_cache_says_why_and_recovers_by_itself(
    s3: S3Settings, starts: Starts, port: int, tmp_path: Path
) -> None:
    later = port + 1
    starts(s3_endpoint=f"127.0.0.1:{later}", cache=str(tmp_path / "cache"))
    with watched_channel(port) as channel:
        stub = ReleaseServiceStub(channel)

        def state() -> release_pb2.GetServingReleaseResponse:
            request = release_pb2.GetServingReleaseRequest()
            return stub.GetServingRelease(request, timeout=30, wait_for_ready=True)

        wait_until(lambda: bool(state().last_failure))
        assert state().state == release_pb2.RELEASE_STATE_LOADING
        assert f"S3 at 127.0.0.1:{later} can't be reached" in state().last_failure
        assert state().loading.stage == release_pb2.LOAD_STAGE_LOOKING
        assert state().latest_failure.stage == release_pb2.LOAD_STAGE_LOOKING
        assert state().latest_failure.release_id == ""
        wait_for_health(channel, NOT_SERVING)
        with faulty_s3(s3, port=later):  # without a fault
            wait_for_health(channel, SERVING)
            assert state().release_id == "tiny-1"


def test_second_signal_ends_the_process_at_once(starts: Starts, port: int, log: Path) -> None:
    process = starts(drain_seconds="600")
    with watched_channel(port) as channel:
        health = health_of(channel)
        wait_for_status(health, SERVING)
        process.send_signal(signal.SIGTERM)
        wait_for_status(health, NOT_SERVING)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, log.read_text()[-2000:]


def test_port_that_is_taken_ends_the_process_with_one_line(
    starts: Starts, port: int, log: Path
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        assert starts().wait(60) == 1
    last = log.read_text().splitlines()[-1]
    assert last.startswith(f"error: can't listen on 127.0.0.1:{port}: the port is taken")


async def test_a_process_that_accepts_no_calls_exits_to_be_restarted(
    starts: Starts, port: int, log: Path
) -> None:
    process = starts()
    with watched_channel(port) as channel:
        wait_for_status(health_of(channel), SERVING)
    async with http2(f"127.0.0.1:{port}") as connection:
        # Latin-1, and so no UTF-8: gRPC's loop ends of it.
        connection.open("/grpc.health.v1.Health/Check?\xe9", grpc_frame(b""))
        assert await asyncio.to_thread(process.wait, 60) == 1
    assert "gRPC accepts no more calls" in await asyncio.to_thread(log.read_text)


@pytest.mark.parametrize(
    ("module", "niceness"), [*((each, 10) for each in MODULES), ("vireo.server.consumer", 15)]
)
def test_process_that_starts_gives_way_before_its_imports_to_those_that_serve(
    module: str, niceness: int
) -> None:
    command = [sys.executable, "-c", UNTIL_NICE, module, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{niceness} []\n"
