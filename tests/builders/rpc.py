"""Runs a gRPC server of ours in this process, on a free port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from tests.builders.s3 import unreachable_s3
from vireo.server.pod.pod import Pod, add_pod_service, add_release_service, pod_admission
from vireo.server.pod.run_queue import RunQueue
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.loader import ReleaseLoader, Serving
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.settings import RpcSettings

T = TypeVar("T")


def rpc_settings(**changes: Any) -> RpcSettings:
    """Settings for a server on a free loopback port that drains at once."""
    return RpcSettings(**{"port": 0, "drain_seconds": 0.0, "grace_seconds": 5.0, **changes})


@asynccontextmanager
async def serving(
    pod: Pod[T],
    folder: Path | None,
    *,
    settings: RpcSettings | None = None,
    queue: RunQueue | None = None,
    max_calls: int = 500,
    shedding: bool = False,
    previous: Path | None = None,
) -> AsyncIterator[tuple[RpcServer, grpc.aio.Channel]]:
    """A pod's server without the loader's background work, and a channel to it.

    Args:
        pod: the kind of pod.
        folder: the release that it serves; None while it is still loading.
        settings: the server's; by default `rpc_settings()`.
        queue: the queue in which the pod's pipeline runs.
        max_calls: how many calls it takes on at a time.
        shedding: whether a gateway has slots; by default none is shed, since a test's machine may
            be busy.
        previous: the release that it served before and still holds, if any.
    """
    settings = settings or rpc_settings()
    loader = await asyncio.to_thread(idle_loader, pod, folder, previous)
    server = RpcServer(settings)
    queue = queue or RunQueue()
    admission = pod_admission(pod, queue, max_calls, shedding=shedding)
    add_pod_service(server, pod, loader, queue, admission)
    add_release_service(server, loader, "test-pod", pod.describe)
    await server.start()
    background = [asyncio.ensure_future(run()) for run in pod.background]
    try:
        await server.set_serving(folder is not None)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield server, channel
    finally:
        await server.drain()
        for each in background:
            each.cancel()
        await asyncio.gather(*background, return_exceptions=True)


def idle_loader(pod: Pod[T], folder: Path | None, previous: Path | None = None) -> ReleaseLoader[T]:
    """A pod's loader that follows no channel.

    Args:
        pod: the kind of pod.
        folder: the release that it serves; None while it is still loading.
        previous: the release that it served before and still holds, if any.
    """
    loader: ReleaseLoader[T] = ReleaseLoader(
        ReleaseStore(unreachable_s3()),
        ReleaseCache(Path("/nonexistent")),
        channel="production",
        pod=pod.kind,
        files=pod.files,
        build=pod.build,
    )
    if folder is not None:
        loader.serving = _built(pod, folder)
    if previous is not None:
        loader.previous = _built(pod, previous)
    return loader


def _built(pod: Pod[T], folder: Path) -> Serving[T]:
    release_id = Manifest.read(folder).release_id
    return Serving(pod.build(folder), release_id, datetime.now(UTC), "s3")
