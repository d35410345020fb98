"""`vireo release status` on pods that answer, and on those that don't."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import grpc
import pytest

from tests.ops.release.conftest import Vireo
from vireo.ops.stack.state import ProcessState, StackState, stack_lock
from vireo.server.file_lock import file_lock
from vireo.server.home import Home
from vireo.v1 import release_pb2, release_pb2_grpc

pytestmark = pytest.mark.integration
PODS = 5


@contextmanager
def pod(everybody: Barrier) -> Iterator[int]:
    """Yield the port of a pod that responds once all pods have been asked."""

    class Together(release_pb2_grpc.ReleaseServiceServicer):
        def GetServingRelease(self, *_: object) -> release_pb2.GetServingReleaseResponse:  # noqa: N802
            everybody.wait()
            return release_pb2.GetServingReleaseResponse(release_id="a", channel="production")

    with futures.ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        release_pb2_grpc.add_ReleaseServiceServicer_to_server(Together(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def test_pods_are_queried_concurrently_and_a_missing_one_is_reported(
    vireo: Vireo, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")  # that of the command
    everybody = Barrier(PODS, timeout=60)
    with ExitStack() as running:
        ports = {f"gateway-{n}": running.enter_context(pod(everybody)) for n in range(PODS)}
        running.callback(everybody.abort)  # lets go of whoever still waits
        running.enter_context(file_lock(stack_lock(home)))
        running_stack(home, {**ports, "ranking-0": 1, "edge": 1})
        done = vireo("status", "--json")
    assert done.exit_code == 0, done.output
    pods = json.loads(done.stdout)["pods"]
    assert list(pods) == [*ports, "ranking-0"]
    assert pods.pop("ranking-0") is None
    assert [each and each["release_id"] for each in pods.values()] == ["a"] * PODS


def running_stack(home: Home, ports: dict[str, int]) -> None:
    """Write the state of a stack that this process runs, with a process on each port."""
    processes = [
        ProcessState(name=name, state="healthy", port=port, log=home.stack / "log")
        for name, port in ports.items()
    ]
    StackState(
        pid=os.getpid(),
        started_at=datetime.now(UTC),
        ready=True,
        channel="production",
        edge="127.0.0.1:1",
        admin_port=1,
        processes=tuple(processes),
    ).write(home)
