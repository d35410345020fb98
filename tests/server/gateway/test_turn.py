"""The gateway waits for the pods behind it before it turns to a release."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog

from tests.builders.loading import serves
from tests.builders.pods import running_pod
from tests.builders.releases import build_release
from tests.builders.waiting import until
from tests.server.gateway.conftest import NOWHERE
from vireo.server.gateway.turn import InnerPods
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases.channels import Change
from vireo.server.releases.progress import Stage
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1.release_pb2 import (
    GetServingReleaseRequest,
    GetServingReleaseResponse,
    ReleaseLoad,
)
from vireo.v1.release_pb2_grpc import (
    ReleaseServiceServicer,
    ReleaseServiceStub,
    add_ReleaseServiceServicer_to_server,
)

pytestmark = pytest.mark.slow

FOREVER = 3600.0


class Pods(ReleaseServiceServicer):
    """Pods behind a balancer that asks each in turn."""

    def __init__(self, *releases: str, loading: str = "") -> None:
        self.releases = list(releases)
        self.loading = loading
        self.asked = 0

    async def GetServingRelease(  # noqa: N802
        self, request: GetServingReleaseRequest, context: Any
    ) -> GetServingReleaseResponse:
        self.asked += 1
        number = self.asked % len(self.releases)
        return GetServingReleaseResponse(
            release_id=self.releases[number],
            pod=f"pod-{number}",
            loading=ReleaseLoad(release_id=self.loading) if self.loading else None,
        )


@asynccontextmanager
async def behind_a_gateway(
    *kinds: Pods, limit: float = FOREVER, longest: float = FOREVER
) -> AsyncIterator[InnerPods]:
    servers = []
    stubs = []
    for pods in kinds:
        server = grpc.aio.server()
        add_ReleaseServiceServicer_to_server(pods, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        stubs.append(ReleaseServiceStub(grpc.aio.insecure_channel(f"127.0.0.1:{port}")))
    try:
        yield InnerPods(stubs, limit, longest)
    finally:
        for server in servers:
            await server.stop(None)


@pytest.mark.parametrize("pods", [2, 30])
async def test_it_is_time_once_every_pod_of_each_kind_serves_the_release(pods: int) -> None:
    candidate, ranking = Pods(*["new"] * (pods - 1), "old"), Pods("new", "new")

    def asked_often(pods: Pods) -> Callable[[], bool]:
        return lambda: pods.asked > 65

    async with behind_a_gateway(candidate, ranking) as inner:
        waiting = asyncio.create_task(inner.serving("new"))
        await until(asked_often(candidate), seconds=60)
        assert not waiting.done(), "one candidate pod serves the old one"
        candidate.releases[-1] = "new"
        await asyncio.wait_for(waiting, 120)  # hundreds of calls, one after the other


async def test_pods_that_never_serve_it_are_waited_for_within_bounds() -> None:
    with structlog.testing.capture_logs() as logs:
        async with behind_a_gateway(Pods("old"), limit=0.3) as inner:
            await asyncio.wait_for(inner.serving("new"), 60)
    assert [line["release"] for line in logs if line["log_level"] == "warning"] == ["new"]


async def test_pods_that_do_not_answer_are_waited_for_within_bounds() -> None:
    inner = InnerPods([ReleaseServiceStub(grpc.aio.insecure_channel(NOWHERE))], 0.3)
    await asyncio.wait_for(inner.serving("new"), 60)


async def test_a_pod_whose_answer_makes_no_sense_is_waited_for_and_leaves_no_task_behind() -> None:
    async def answer(_: bytes, context: object) -> bytes:
        return b"\xff\xff"

    odd = grpc.aio.server()
    method: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "GetServingRelease": grpc.unary_unary_rpc_method_handler(answer)
    }
    handler = grpc.method_handlers_generic_handler("vireo.v1.ReleaseService", method)
    odd.add_generic_rpc_handlers((handler,))
    port = odd.add_insecure_port("127.0.0.1:0")
    await odd.start()
    tasks = asyncio.all_tasks()
    with structlog.testing.capture_logs() as logs:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            inner = InnerPods([ReleaseServiceStub(channel)] * 2, 0.3)
            await asyncio.wait_for(inner.serving("new"), 60)
    assert [line["release"] for line in logs if line["log_level"] == "warning"] == ["new"]
    left = [task for task in asyncio.all_tasks() - tasks if "_all_serve" in repr(task)]
    assert not left
    await odd.stop(None)


@pytest.mark.parametrize("loading", ["new", "another"])
async def test_a_load_that_never_ends_is_waited_for_within_bounds(loading: str) -> None:
    pods = Pods("old", loading=loading)
    limit, longest = (0.3, FOREVER) if loading == "another" else (FOREVER, 0.3)
    async with behind_a_gateway(pods, limit=limit, longest=longest) as inner:
        await asyncio.wait_for(inner.serving("new"), 60)


@pytest.mark.integration
async def test_pods_are_waited_for_as_long_as_they_load(s3: S3Settings, tmp_path: Path) -> None:
    limit = 2.0

    def build(folder: Path) -> Any:
        if folder.name == "turn-2":
            time.sleep(1.5 * limit)
        return RANKING_POD.build(folder)

    store = ReleaseStore(s3)
    for release_id in ("turn-1", "turn-2"):
        store.publish(build_release(tmp_path / release_id, release_id=release_id))
    store.change_channel("turn", Change("turn-1"), None)
    async with running_pod(RANKING_POD, store, tmp_path / "cache", "turn", build=build) as pod:
        await until(lambda: serves(pod.loader, "turn-1"))
        store.change_channel("turn", Change("turn-2"), store.read_channel("turn"))
        await until(lambda: pod.loader.progress.stage is Stage.BUILDING)
        inner = InnerPods([ReleaseServiceStub(pod.channel)], limit)
        await asyncio.wait_for(inner.serving("turn-2"), 60)
        assert serves(pod.loader, "turn-2")
