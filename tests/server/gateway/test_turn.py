"""The gateway waits for the pods behind it before it turns to a release."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import structlog
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse
from vireo.v1.release_pb2_grpc import (
    ReleaseServiceServicer,
    ReleaseServiceStub,
    add_ReleaseServiceServicer_to_server,
)

from server.gateway.turn import InnerPods
from tests.builders.waiting import until
from tests.server.gateway.conftest import NOWHERE

FOREVER = 3600.0


class Pods(ReleaseServiceServicer):
    """Pods behind a balancer that asks each in turn."""

    def __init__(self, *releases: str) -> None:
        self.releases = list(releases)
        self.asked = 0

    async def GetServingRelease(  # noqa: N802
        self, request: GetServingReleaseRequest, context: Any
    ) -> GetServingReleaseResponse:
        self.asked += 1
        return GetServingReleaseResponse(release_id=self.releases[self.asked % len(self.releases)])


@asynccontextmanager
async def behind_a_gateway(*kinds: Pods, limit: float = FOREVER) -> AsyncIterator[InnerPods]:
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
        yield InnerPods(stubs, limit)
    finally:
        for server in servers:
            await server.stop(None)


async def test_it_is_time_once_every_pod_of_each_kind_serves_the_release() -> None:
    candidate, ranking = Pods("new", "old"), Pods("new", "new")

    def asked_often(pods: Pods) -> Callable[[], bool]:
        return lambda: pods.asked > 25

    async with behind_a_gateway(candidate, ranking) as inner:
        waiting = asyncio.create_task(inner.serving("new"))
        await until(asked_often(candidate))
        assert not waiting.done(), "one candidate pod serves the old one"
        candidate.releases[1] = "new"
        await asyncio.wait_for(waiting, 20)


async def test_pods_that_never_serve_it_are_waited_for_within_bounds() -> None:
    with structlog.testing.capture_logs() as logs:
        async with behind_a_gateway(Pods("old"), limit=0.3) as inner:
            await asyncio.wait_for(inner.serving("new"), 20)
    assert [line["release"] for line in logs if line["log_level"] == "warning"] == ["new"]


async def test_pods_that_do_not_answer_are_waited_for_within_bounds() -> None:
    inner = InnerPods([ReleaseServiceStub(grpc.aio.insecure_channel(NOWHERE))], 0.3)
    await asyncio.wait_for(inner.serving("new"), 20)
