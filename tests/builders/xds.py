"""A client of the discovery service that ACKs or NACKs as a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.rpc.status_pb2 import Status

from server.control.snapshot import CLUSTER, ENDPOINTS

_QUIET_SECONDS = 0.3


@dataclass(frozen=True)
class Response:
    """What the server sent."""

    kind: str
    version: str
    nonce: str
    names: frozenset[str]
    removed: frozenset[str]
    bodies: tuple[Any, ...]


class XdsClient:
    """One stream, in either protocol. A kind is asked for before it is answered."""

    def __init__(self, channel: grpc.aio.Channel, node: str, *, delta: bool) -> None:
        self.delta = delta
        self._node = node
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        self._call = (stub.DeltaAggregatedResources if delta else stub.StreamAggregatedResources)()
        self._names: dict[str, list[str]] = {}
        self._first = True

    async def ask(self, kind: str, *names: str, has: dict[str, str] | None = None) -> None:
        """Subscribes to names of a kind besides those so far; to all of it without names."""
        self._names.setdefault(kind, []).extend(names)
        if self.delta:
            message = pb.DeltaDiscoveryRequest(
                type_url=kind, resource_names_subscribe=names, initial_resource_versions=has or {}
            )
        else:
            message = pb.DiscoveryRequest(type_url=kind, resource_names=self._names[kind])
        await self.send(message)

    async def leave(self, kind: str, name: str) -> None:
        """Unsubscribes from a name."""
        self._names[kind].remove(name)
        if self.delta:
            message = pb.DeltaDiscoveryRequest(type_url=kind, resource_names_unsubscribe=[name])
        else:
            message = pb.DiscoveryRequest(type_url=kind, resource_names=self._names[kind])
        await self.send(message)

    async def receive(self) -> Response:
        """The next response."""
        async with asyncio.timeout(30):
            message = await self._call.read()
        assert message is not grpc.aio.EOF, await self._call.details()
        if self.delta:
            return Response(
                message.type_url,
                message.system_version_info,
                message.nonce,
                frozenset(each.name for each in message.resources),
                frozenset(message.removed_resources),
                tuple(each.resource for each in message.resources),
            )
        names = []
        for body in message.resources:
            kind = _CLASSES[body.TypeName()]
            resource = kind.FromString(body.value)
            names.append(getattr(resource, "cluster_name", "") or resource.name)
        return Response(
            message.type_url,
            message.version_info,
            message.nonce,
            frozenset(names),
            frozenset(),
            tuple(message.resources),
        )

    async def take(self, response: Response) -> None:
        """Acknowledges a response."""
        await self.send(self._answer(response, ""))

    async def refuse(self, response: Response, words: str) -> None:
        """Refuses a response."""
        await self.send(self._answer(response, words))

    async def taken(self) -> Response:
        """The next response, acknowledged."""
        response = await self.receive()
        await self.take(response)
        return response

    async def hears_nothing(self) -> bool:
        """Whether the server keeps still; ends the stream."""
        reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait([reading], timeout=_QUIET_SECONDS)
        self._call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return not done

    def _answer(self, response: Response, words: str) -> Any:
        error = Status(code=3, message=words) if words else None
        if self.delta:
            return pb.DeltaDiscoveryRequest(
                type_url=response.kind, response_nonce=response.nonce, error_detail=error
            )
        return pb.DiscoveryRequest(
            type_url=response.kind,
            resource_names=self._names[response.kind],
            response_nonce=response.nonce,
            version_info="" if words else response.version,
            error_detail=error,
        )

    async def send(self, message: Any) -> None:
        """Send a request as it is, but for the node in the first."""
        if self._first and self._node:
            message.node.CopyFrom(Node(id=self._node, cluster="test"))
        self._first = False
        await self._call.write(message)

    def end(self) -> None:
        """End the stream."""
        self._call.cancel()


@asynccontextmanager
async def xds_client(port: int, *, delta: bool, node: str = "test") -> AsyncIterator[XdsClient]:
    """A client of the server on a loopback port."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = XdsClient(channel, node, delta=delta)
        try:
            yield client
        finally:
            client.end()


async def refuse_endpoints(client: XdsClient, words: str) -> None:
    """Take the clusters and refuse the endpoints of the gateway."""
    await client.ask(CLUSTER)
    await client.taken()
    await client.ask(ENDPOINTS, "gateway")
    await client.refuse(await client.receive(), words)


def _classes() -> dict[str, Any]:
    from envoy.config.cluster.v3.cluster_pb2 import Cluster
    from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
    from envoy.config.listener.v3.listener_pb2 import Listener
    from envoy.config.route.v3.route_pb2 import RouteConfiguration

    kinds = (Cluster, ClusterLoadAssignment, Listener, RouteConfiguration)
    return {kind.DESCRIPTOR.full_name: kind for kind in kinds}


_CLASSES = _classes()
