"""A control plane in this process, whose discovery and canary share a test sets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from tests.builders.s3 import unreachable_s3
from vireo.server.control import channels as channels_module
from vireo.server.control import control as control_module
from vireo.server.control.ads import DiscoveryServicer
from vireo.server.control.control import Control
from vireo.server.control.discovery import Discovery
from vireo.server.control.mesh import Endpoint, Endpoints, Mesh, Pool
from vireo.server.control.settings import ControlSettings
from vireo.server.releases.bucket import StoreUnavailableError
from vireo.server.releases.channels import Channel
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.server import RpcServer


class SetDiscovery:
    """Discovery of endpoints that a test sets."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = dict(endpoints)
        self._changed = asyncio.Event()

    def set(self, pool: Pool, *ports: int) -> None:
        """From now on a pool has the pods on these ports."""
        self.endpoints[pool] = local(*ports)
        self._changed.set()

    async def follow(self, changed: Callable[[Endpoints], None]) -> None:
        while True:
            self._changed.clear()
            changed(dict(self.endpoints))
            await self._changed.wait()


class SetChannels:
    """Channels that a test sets, or makes unreadable."""

    def __init__(self) -> None:
        self.releases = {"production": "a", "canary": "a"}
        self.share = 0.0
        """The canary's."""
        self.failure: Exception | None = None
        """Raised by each read."""
        self.unreadable: set[str] = set()
        self.reads: Counter[str] = Counter()

    def read_channel(self, name: str) -> Channel | None:
        self.reads[name] += 1
        if self.failure is not None:
            raise self.failure
        if name in self.unreadable:
            raise StoreUnavailableError(f"{name} can't be read")
        if name not in self.releases:
            return None
        pointer: Any = SimpleNamespace(
            release_id=self.releases[name],
            updated_at=datetime.now(UTC),
            updated_by="test",
            share=self.share,
        )
        return Channel(name, pointer, "etag")


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane."""

    port: int
    discovery: SetDiscovery
    channels: SetChannels
    control: Control

    @property
    def servicer(self) -> DiscoveryServicer:
        """What serves Envoys."""
        return self.control.servicer

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
    discovery, channels = SetDiscovery(endpoints), SetChannels()
    async with control_of(discovery, channels, **settings) as (port, control):
        yield ControlPlane(port, discovery, channels, control)


@asynccontextmanager
async def control_of(
    discovery: Discovery, channels: SetChannels | ReleaseStore, **settings: Any
) -> AsyncIterator[tuple[int, Control]]:
    """The same with any source of endpoints: its port, and what makes snapshots."""
    quick = {
        "port": 0,
        "drain_seconds": 0.0,
        "grace_seconds": 5.0,
        "s3": unreachable_s3(),
    }
    used = ControlSettings(**{**quick, **settings})
    server = RpcServer(used)
    with pytest.MonkeyPatch.context() as patch:
        control = Control(used, discovery, channels.read_channel, server)
        await server.start()
        patch.setattr(control_module, "_INTERVAL_SECONDS", 0.05)
        patch.setattr(channels_module, "_POLL_SECONDS", 0.05)
        running = asyncio.ensure_future(control.run())
        try:
            while control.servicer.snapshot is None:
                if running.done():
                    running.result()
                await asyncio.sleep(0.01)
            yield server.port, control
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.drain()
