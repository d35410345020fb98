"""A control plane in this process, whose discovery and canary share a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import grpc.aio
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from tests.builders.s3 import unreachable_s3
from vireo.server.control.ads import DiscoveryServicer
from vireo.server.control.attempts import Attempts
from vireo.server.control.canary import Channels
from vireo.server.control.channels import add_channel_service
from vireo.server.control.control import Control, control_server
from vireo.server.control.discovery.source import Discovery
from vireo.server.control.mesh import Endpoint, Endpoints, Mesh, Pool
from vireo.server.control.settings import ControlSettings
from vireo.server.releases.channels import Channel


class SetDiscovery:
    """Discovery of endpoints that a test sets."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.attempts = Attempts("list")
        self.endpoints = dict(endpoints)
        self._changed = asyncio.Event()

    def set(self, pool: Pool, *ports: int) -> None:
        """From now on a pool has the pods on these ports."""
        self.endpoints[pool] = local(*ports)
        self._changed.set()

    async def watch(self) -> AsyncIterator[Endpoints]:
        while True:
            self._changed.clear()
            self.attempts.succeeded()
            yield dict(self.endpoints)
            await self._changed.wait()


class SetShare:
    """Channels of which the canary's has a share."""

    share = 0.0

    def read_channel(self, name: str) -> Channel | None:
        pointer: Any = SimpleNamespace(
            release_id="r", updated_at=datetime.now(UTC), updated_by="test", share=self.share
        )
        return Channel(name, pointer, "etag")


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane."""

    port: int
    discovery: SetDiscovery
    channels: SetShare
    servicer: DiscoveryServicer
    control: Control

    @property
    def mesh(self) -> Mesh:
        """What it has found and read by now."""
        return self.control.mesh

    async def status(self) -> dict[str, dict[tuple[str, str], Any]]:
        """Return the response of CSDS: by node, then by short kind and name of the resource."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
            answer = await stub.FetchClientStatus(csds_pb2.ClientStatusRequest())
        return {
            config.node.id: {
                (each.type_url.rpartition(".")[2], each.name): each
                for each in config.generic_xds_configs
            }
            for config in answer.config
        }


def local(*ports: int) -> frozenset[Endpoint]:
    """Endpoints on loopback."""
    return frozenset(Endpoint("127.0.0.1", port) for port in ports)


@asynccontextmanager
async def running_control(endpoints: Endpoints, **settings: Any) -> AsyncIterator[ControlPlane]:
    """A control plane that serves its first snapshot, patient for tenths of a second only."""
    discovery, channels = SetDiscovery(endpoints), SetShare()
    async with control_of(discovery, channels, **settings) as (port, servicer, control):
        yield ControlPlane(port, discovery, channels, servicer, control)


@asynccontextmanager
async def control_of(
    discovery: Discovery, channels: Channels, **settings: Any
) -> AsyncIterator[tuple[int, DiscoveryServicer, Control]]:
    """The same with any source of endpoints: its port, and what serves and makes snapshots."""
    quick = {
        "port": 0,
        "drain_seconds": 0.0,
        "grace_seconds": 5.0,
        "admission_interval": 0.05,
        "initial_admission_timeout": 0.0,
        "canary_poll_seconds": 0.05,
        "channel_poll_seconds": 0.05,
        "endpoint_drain_seconds": 0.2,
        "s3": unreachable_s3(),
    }
    used = ControlSettings(**{**quick, **settings})
    server, servicer = control_server(used)
    control = Control(used, discovery, channels, servicer)
    add_channel_service(server, control.channel_watch)
    await server.start()
    running = asyncio.ensure_future(control.run(server))
    try:
        while servicer.snapshot is None:
            if running.done():
                running.result()
            await asyncio.sleep(0.01)
        yield server.port, servicer, control
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.drain()
