"""The aggregated discovery service: one stream an Envoy, state of the world or delta."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio
import structlog
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from prometheus_client import Counter

from server.control.nodes import Nodes
from server.control.session import MAX_WORDS, Session, Variant
from server.control.snapshot import WARMING_ORDER, Snapshot
from server.control.streams import Limits, Streams, TooManyStreamsError
from server.control.subscription import Push, TooManyNamesError

log = structlog.get_logger()

SNAPSHOTS = Counter("vireo_xds_snapshots", "Snapshots that were published.")
MAX_NODE_WORDS = 256
"""Characters of a node's id; of its cluster and user agent no more are kept."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
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
        _hear_answer(session, request)
        session.names(request.type_url, request.resource_names)

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
        words = request.error_detail.message[:MAX_WORDS]
        session.refused(request.type_url, request.response_nonce, words)
    else:
        session.took(request.type_url, request.response_nonce)


class DiscoveryServicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Brings every client to the newest snapshot, and keeps it there."""

    def __init__(self, nodes: Nodes, limits: Limits) -> None:
        """Serve nothing yet; note in `nodes` what each client has, and hold peers to `limits`."""
        self.snapshot: Snapshot | None = None
        """The newest; None before the first."""
        self.nodes = nodes
        self.streams = Streams(limits)
        self._wakes: set[asyncio.Event] = set()

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot the newest."""
        self.snapshot = snapshot
        SNAPSHOTS.inc()
        for wake in self._wakes:
            wake.set()

    # Both write to the context instead of yielding: a generator that is left behind in a yield
    # ends when it is collected, and not when its stream does.

    async def StreamAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> None:
        """State of the world."""
        await self._serve(StateOfTheWorld(), request_iterator, context)

    async def DeltaAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> None:
        """Incremental."""
        await self._serve(Delta(), request_iterator, context)

    async def _serve(self, wire: Wire, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            with self.streams.counted(context.peer()):
                first = await self._first(requests, context)
                if first is not None:
                    await self._bring_up_to_date(wire, first, requests, context)
        except (TooManyStreamsError, TooManyNamesError) as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _first(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """Return the first request, which says who asks; None if the client has left."""
        limits = self.streams.limits
        try:
            async with asyncio.timeout(limits.first_request_seconds):
                first = await anext(aiter(requests), None)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"no request came in {limits.first_request_seconds:g} s",
            )
        if first is None:
            return None
        if not first.node.id:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first request names no node.id"
            )
        if len(first.node.id) > MAX_NODE_WORDS or not first.node.id.isprintable():
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"node.id: only {MAX_NODE_WORDS} printable characters are taken",
            )
        return first

    async def _bring_up_to_date(
        self, wire: Wire, first: Any, requests: AsyncIterator[Any], context: Context
    ) -> None:
        session = self._session(wire, first.node)
        wake = asyncio.Event()
        self._wakes.add(wake)
        reader = asyncio.create_task(_read(wire, session, first, requests, wake))
        try:
            while not reader.done():
                push = session.next(self.snapshot) if self.snapshot else None
                if push is not None:
                    await context.write(wire.say(push))
                    continue
                await wake.wait()
                wake.clear()
            reader.result()
        finally:
            self._wakes.discard(wake)
            self.nodes.ended(session)
            log.info("stream ended", node=session.node.identity)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _session(self, wire: Wire, sender: Any) -> Session:
        node = self.nodes.connected(sender.id, _shown(sender.cluster), _shown(_user_agent(sender)))
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


def _shown(words: str) -> str:
    """Return what people may be shown of what a client says of itself."""
    return "".join(filter(str.isprintable, words[:MAX_NODE_WORDS]))
