"""`vireo release status` on pods that answer, and on those that don't."""

from __future__ import annotations

import json
import os
from concurrent import futures
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


class Pods(release_pb2_grpc.ReleaseServiceServicer):
    """Pods that respond once all have been asked."""

    everybody = Barrier(PODS, timeout=60)

    def GetServingRelease(self, *_: object) -> release_pb2.GetServingReleaseResponse:  # noqa: N802
        self.everybody.wait()
        return release_pb2.GetServingReleaseResponse(release_id="a", channel="production")


def test_pods_are_queried_concurrently_and_a_missing_one_is_reported(
    vireo: Vireo, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")  # that of the command
    with futures.ThreadPoolExecutor(PODS) as threads, file_lock(stack_lock(home)):
        server = grpc.server(threads)
        release_pb2_grpc.add_ReleaseServiceServicer_to_server(Pods(), server)
        ports = {f"gateway-{n}": server.add_insecure_port("127.0.0.1:0") for n in range(PODS)}
        server.start()
        try:
            running_stack(home, {**ports, "ranking-0": 1, "edge": 1})
            done = vireo("status", "--json")
        finally:
            Pods.everybody.abort()  # lets go of whoever still waits
            server.stop(None).wait()
    assert done.exit_code == 0, done.output
    pods = json.loads(done.stdout)["pods"]
    assert list(pods) == [*ports, "ranking-0"]
    assert pods.pop("ranking-0") is None
    assert [each and each["releaseId"] for each in pods.values()] == ["a"] * PODS


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
