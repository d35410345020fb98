"""Envoy before a pod of two worker processes, each told by its own port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

from bench.stack import free_port_base
from server.control.mesh import Pool
from server.releases.store import ReleaseStore
from tests.builders.edge import running_edge
from tests.builders.process import start
from tests.builders.releases import build_release
from tests.builders.s3 import running_s3

pytestmark = pytest.mark.integration
PATIENT = ("x-envoy-upstream-rq-per-try-timeout-ms", "60000")
"""Or worker processes that are slow for a moment would be taken for ones that hang."""
BOTH = {"pod-7/1", "pod-7/2"}


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The port of a candidate pod of two worker processes, and its supervisor."""
    port = free_port_base()
    with running_s3(tmp_path / "s3") as s3:
        store = ReleaseStore(s3)
        store.publish(build_release(tmp_path / "release", release_id="of-workers"))
        store.set_channel("production", "of-workers", None)
        settings = {
            **s3.environment(),
            "VIREO_CACHE": str(tmp_path / "cache"),
            "VIREO_PORT": str(port),
            "VIREO_POD_NAME": "pod-7",
            "VIREO_WORKERS": "2",
        }
        process = start("server.candidate", tmp_path / "pod.log", settings)
        try:
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


class Caller:
    """Calls candidate pods through Envoy, one call after the other on one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ReleaseServiceStub(channel)

    async def _name(self) -> str:
        """Of who answers; empty for one of the edge's own pods, which don't know the service."""
        try:
            answer = await self._stub.GetServingRelease(
                GetServingReleaseRequest(), timeout=60, metadata=[PATIENT]
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return ""
            raise
        return str(answer.pod)

    async def until_answered_by(self, names: set[str]) -> set[str]:
        """Calls until the last twenty answers are by these, each of them; who answered at all."""
        answers: list[str] = []
        async with asyncio.timeout(120):
            while len(answers) < 20 or set(answers[-20:]) != names:
                answers.append(await self._name())
                await asyncio.sleep(0.005)
        return set(answers)


async def test_envoy_spreads_calls_over_worker_processes_and_loses_none_with_one(
    pod: tuple[int, psutil.Process], tmp_path: Path
) -> None:
    port, supervisor = pod
    async with (
        running_edge(tmp_path, 1) as edge,
        grpc.aio.insecure_channel(f"127.0.0.1:{edge.settings.candidate_port}") as channel,
    ):
        edge.control.discovery.set(Pool("candidate"), port + 1, port + 2)
        caller = Caller(channel)
        await caller.until_answered_by(BOTH)
        [first] = [child for child in supervisor.children() if number_of(child) == 1]
        first.kill()
        assert await caller.until_answered_by({"pod-7/2"}) <= BOTH
        assert await caller.until_answered_by(BOTH) == BOTH


def number_of(worker: psutil.Process) -> int:
    """The number of a worker process."""
    number: int = json.loads(worker.environ()["VIREO_WORKER_PLACE"])["number"]
    return number
