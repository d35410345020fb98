"""A whole pod in this process: loader, server and ReleaseService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from tests.builders.loading import loader_of, running
from tests.builders.rpc import rpc_settings, running_server
from vireo.server.pod.pod import Pod, pod_server
from vireo.server.pod.run_queue import RunQueue
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.store import ReleaseStore
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse
from vireo.v1.release_pb2_grpc import ReleaseServiceStub


@dataclass(frozen=True)
class RunningPod:
    """A pod that follows its channel."""

    loader: ReleaseLoader[Any]
    channel: grpc.aio.Channel
    """A gRPC channel to it."""

    async def state(self) -> GetServingReleaseResponse:
        """Response of its ReleaseService."""
        stub = ReleaseServiceStub(self.channel)
        return await stub.GetServingRelease(GetServingReleaseRequest(), timeout=30)


@asynccontextmanager
async def running_pod(
    pod: Pod[Any], store: ReleaseStore, cache: Path, channel: str, **changes: Any
) -> AsyncIterator[RunningPod]:
    """A pod that looks at its channel often; `changes` are to its loader's arguments."""
    loader = loader_of(pod, store, cache, channel, **changes)
    server, _ = pod_server(pod, loader, RunQueue(), rpc_settings(), "pod-1", shedding=False)
    background = [asyncio.create_task(work()) for work in pod.background]
    try:
        async with running_server(server) as grpc_channel, running(loader):
            yield RunningPod(loader, grpc_channel)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
