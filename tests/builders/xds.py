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

_QUIET_SECONDS = 0.3


@dataclass(frozen=True)
class Response:
    """What the server sent."""

    kind: str
    nonce: str
    names: frozenset[str]
    removed: frozenset[str]


class XdsClient:
    """One stream."""

    def __init__(self, channel: grpc.aio.Channel, node: str) -> None:
        self._node = node
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        self._call = stub.DeltaAggregatedResources()
        self._first = True

    async def ask(self, kind: str, *names: str) -> None:
        """Subscribes to names of a kind besides those so far; to all of it without names."""
        await self.send(pb.DeltaDiscoveryRequest(type_url=kind, resource_names_subscribe=names))

    async def receive(self) -> Response:
        """The next response."""
        async with asyncio.timeout(30):
            message = await self._call.read()
        assert message is not grpc.aio.EOF, await self._call.details()
        return Response(
            message.type_url,
            message.nonce,
            frozenset(each.name for each in message.resources),
            frozenset(message.removed_resources),
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
        return pb.DeltaDiscoveryRequest(
            type_url=response.kind, response_nonce=response.nonce, error_detail=error
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
async def xds_client(port: int, *, node: str = "test") -> AsyncIterator[XdsClient]:
    """A client of the server on a loopback port."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = XdsClient(channel, node)
        try:
            yield client
        finally:
            client.end()
