"""Runs gRPC servers in this process, on free ports: ours, pods, and bare ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from tests.builders.s3 import unreachable_s3
from vireo.server.pod.pod import Pod, pod_server
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
async def running_server(server: RpcServer) -> AsyncIterator[grpc.aio.Channel]:
    """Start a server that has its services; yield a channel to it, and drain it in the end."""
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield channel
    finally:
        await server.drain()


@asynccontextmanager
async def bare_server(*register: Callable[[grpc.aio.Server], object]) -> AsyncIterator[str]:
    """Run a server of gRPC's own, without our guard around its methods; yield its address.

    Args:
        register: each adds a servicer, with generated code.
    """
    server = grpc.aio.server()
    for add in register:
        add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def answering_bytes(answer: Callable[[], bytes]) -> AbstractAsyncContextManager[str]:
    """Run a bare server that answers every unary call with bytes, messages or not."""

    class AnyMethod(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            async def respond(request: bytes, context: Any) -> bytes:
                return answer()

            return grpc.unary_unary_rpc_method_handler(respond)

    return bare_server(lambda server: server.add_generic_rpc_handlers((AnyMethod(),)))


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
    settings, queue = settings or rpc_settings(), queue or RunQueue()
    loader = await asyncio.to_thread(idle_loader, pod, folder, previous)
    server, _ = pod_server(
        pod, loader, queue, settings, "test-pod", max_calls=max_calls, shedding=shedding
    )
    background = [asyncio.ensure_future(run()) for run in pod.background]
    try:
        async with running_server(server) as channel:
            await server.set_serving(folder is not None)
            yield server, channel
    finally:
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
