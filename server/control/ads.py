"""The aggregated discovery service: one stream an Envoy, state of the world or delta."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from prometheus_client import Counter

from server.control.nodes import Nodes
from server.control.session import Push, Session, Variant
from server.control.snapshot import WARMING_ORDER, Snapshot

log = structlog.get_logger()

SNAPSHOTS = Counter("vireo_xds_snapshots", "Snapshots that were published.")
NAME: str = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name


class Wire(Protocol):
    """How one of the two protocols is spoken."""

    variant: Variant

    def hear(self, session: Session, request: Any) -> None:
        """Tells the session what a request says."""
        ...

    def say(self, push: Push) -> Any:
        """The response for a push."""
        ...


class StateOfTheWorld:
    """DiscoveryRequest and DiscoveryResponse."""

    variant: Variant = "state of the world"

    def hear(self, session: Session, request: Any) -> None:
        """Tells the session what a request says."""
        session.names(request.type_url, request.resource_names)
        _hear_answer(session, request)

    def say(self, push: Push) -> Any:
        """The response for a push."""
        return pb.DiscoveryResponse(
            version_info=push.version,
            type_url=push.kind,
            nonce=push.nonce,
            resources=[each.body for each in push.resources.values()],
        )


class Delta:
    """DeltaDiscoveryRequest and DeltaDiscoveryResponse."""

    variant: Variant = "delta"

    def hear(self, session: Session, request: Any) -> None:
        """Tells the session what a request says."""
        _hear_answer(session, request)
        session.change(
            request.type_url,
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
            request.initial_resource_versions,
        )

    def say(self, push: Push) -> Any:
        """The response for a push."""
        return pb.DeltaDiscoveryResponse(
            system_version_info=push.version,
            type_url=push.kind,
            nonce=push.nonce,
            resources=[
                pb.Resource(name=each.name, version=each.version, resource=each.body)
                for each in push.resources.values()
            ],
            removed_resources=sorted(push.removed),
        )


def _hear_answer(session: Session, request: Any) -> None:
    if not request.response_nonce:
        return
    if request.HasField("error_detail"):
        words = request.error_detail.message
        session.refused(request.type_url, request.response_nonce, words)
    else:
        session.took(request.type_url, request.response_nonce)


class DiscoveryServicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Brings every client to the newest snapshot, and keeps it there."""

    def __init__(self, nodes: Nodes) -> None:
        """Takes the registry in which it notes what each client has."""
        self.snapshot: Snapshot | None = None
        """The newest; None before the first."""
        self.nodes = nodes
        self._wakes: set[asyncio.Event] = set()

    def publish(self, snapshot: Snapshot) -> None:
        """Makes a snapshot the newest."""
        self.snapshot = snapshot
        SNAPSHOTS.inc()
        for wake in self._wakes:
            wake.set()

    async def StreamAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        """State of the world."""
        async for response in self._stream(StateOfTheWorld(), request_iterator, context):
            yield response

    async def DeltaAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        """Incremental."""
        async for response in self._stream(Delta(), request_iterator, context):
            yield response

    async def _stream(
        self, wire: Wire, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        first = await anext(aiter(requests), None)
        if first is None:
            return
        if not first.node.id:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first request names no node.id"
            )
        session = self._session(wire, first.node)
        wake = asyncio.Event()
        self._wakes.add(wake)
        reader = asyncio.create_task(_read(wire, session, first, requests, wake))
        try:
            while not reader.done():
                push = session.next(self.snapshot) if self.snapshot else None
                if push is not None:
                    yield wire.say(push)
                    continue
                await wake.wait()
                wake.clear()
            reader.result()
        finally:
            self._wakes.discard(wake)
            reader.cancel()
            session.node.end(session)
            log.info("stream ended", node=session.node.identity)

    def _session(self, wire: Wire, sender: Any) -> Session:
        node = self.nodes.connected(sender.id, sender.cluster, _user_agent(sender))
        session = Session(node, wire.variant)
        node.begin(session)
        log.info("stream begun", node=node.identity, variant=wire.variant, agent=node.user_agent)
        return session


async def _read(
    wire: Wire, session: Session, first: Any, requests: AsyncIterator[Any], wake: asyncio.Event
) -> None:
    """Hears every request of a stream, and wakes the sender after each and at the end."""
    try:
        _hear(wire, session, first)
        wake.set()
        async for request in requests:
            _hear(wire, session, request)
            wake.set()
    finally:
        wake.set()


def _hear(wire: Wire, session: Session, request: Any) -> None:
    if request.type_url in WARMING_ORDER:  # secrets and the like are never served
        wire.hear(session, request)


def _user_agent(node: Any) -> str:
    version = node.user_agent_build_version.version
    numbers = f"{version.major_number}.{version.minor_number}.{version.patch}"
    known = node.HasField("user_agent_build_version")
    return f"{node.user_agent_name} {numbers if known else node.user_agent_version}".strip()
