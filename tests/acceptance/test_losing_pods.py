"""Pods die under load, and no request is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field

import grpc
import pytest
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

from bench.chaos.envoy_view import hosts
from tests.builders.stack import Stack

CALLERS = 8


@dataclass
class Load:
    """What became of the requests of a steady load."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, stub: recommendation_pb2_grpc.RecommendationServiceAsyncStub) -> None:
        """Asks for one slate after another until it is told to stop."""
        viewer = 0
        while not self.stop.is_set():
            viewer = viewer % 900 + 1
            request = recommendation_pb2.RecommendRequest(viewer_id=str(viewer), page_size=10)
            try:
                response = await stub.Recommend(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")
                continue
            if len(response.items) == 10:
                self.answered += 1
            else:
                self.failures.append(f"{len(response.items)} items")


async def until_sent_to(stack: Stack, name: str, *, not_pid: int | None = None) -> None:
    """Waits until a pod, its process not `not_pid`, is healthy and Envoy sends to it.

    Until then the other one is the only one: to kill it would be to lose both.
    """
    async with asyncio.timeout(200):
        while True:
            state = stack.state()
            [process] = [each for each in state.processes if each.name == name]
            if process.pid not in (None, not_pid) and process.state == "healthy":
                sent_to = await hosts(state.admin_port, name.rpartition("-")[0])
                if sent_to[f"127.0.0.1:{process.port}"].healthy:
                    return
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("kind", ["candidate", "ranking", "gateway"])
async def test_killing_one_pod_of_each_kind_loses_no_request(stack: Stack, kind: str) -> None:
    load = Load()
    names = (f"{kind}-1", f"{kind}-2")
    for name in names:
        await until_sent_to(stack, name)
    async with grpc.aio.insecure_channel(stack.edge) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        callers = [asyncio.create_task(load.call(stub)) for _ in range(CALLERS)]
        for name in names:
            while_before = load.answered
            pid = stack.pid(name)
            os.kill(pid, signal.SIGKILL)
            await until_sent_to(stack, name, not_pid=pid)
            assert load.answered > while_before, "the load must have gone on meanwhile"
        load.stop.set()
        await asyncio.gather(*callers)
    assert load.failures == []
    assert load.answered > 100
