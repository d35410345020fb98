"""The aggregated discovery service: one stream per Envoy, state of the world or delta."""

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
"""Maximum characters of a node's id; its cluster and user agent are truncated to this."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
NAME: str = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name


class Codec(Protocol):
    """Messages of one of the two protocol variants."""

    variant: Variant

    def decode(self, session: Session, request: Any) -> None:
        """Apply a request to the session."""
        ...

    def encode(self, push: Push) -> Any:
        """Return the response for a push."""
        ...


class StateOfTheWorld:
    """DiscoveryRequest and DiscoveryResponse."""

    variant: Variant = "state of the world"

    def decode(self, session: Session, request: Any) -> None:
        """Apply a request to the session."""
        _decode_acknowledgement(session, request)
        session.names(request.type_url, request.resource_names)

    def encode(self, push: Push) -> Any:
        """Return the response for a push."""
        return pb.DiscoveryResponse(
            version_info=push.version,
            type_url=push.kind,
            nonce=push.nonce,
            resources=[each.body for each in push.resources.values()],
        )


class Delta:
    """DeltaDiscoveryRequest and DeltaDiscoveryResponse."""

    variant: Variant = "delta"

    def decode(self, session: Session, request: Any) -> None:
        """Apply a request to the session."""
        _decode_acknowledgement(session, request)
        session.change(
            request.type_url,
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
            request.initial_resource_versions,
        )

    def encode(self, push: Push) -> Any:
        """Return the response for a push."""
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


def _decode_acknowledgement(session: Session, request: Any) -> None:
    if not request.response_nonce:
        return
    if request.HasField("error_detail"):
        words = request.error_detail.message[:MAX_WORDS]
        session.refused(request.type_url, request.response_nonce, words)
    else:
        session.took(request.type_url, request.response_nonce)


class DiscoveryServicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Keeps every client up to date with the newest snapshot."""

    def __init__(self, nodes: Nodes, limits: Limits) -> None:
        """Start without a snapshot.

        Args:
            nodes: registry of what each client has.
            limits: limits of streams.
        """
        self.snapshot: Snapshot | None = None
        """The newest snapshot; None before the first."""
        self.nodes = nodes
        self.streams = Streams(limits)
        self._wakes: set[asyncio.Event] = set()

    def publish(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest one, and wake all streams."""
        self.snapshot = snapshot
        SNAPSHOTS.inc()
        for wake in self._wakes:
            wake.set()

    # Both write to the context instead of yielding: a generator suspended in a yield ends only
    # when it is garbage collected, not when its stream ends.

    async def StreamAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> None:
        """Serve a stream in the state of the world variant."""
        await self._serve(StateOfTheWorld(), request_iterator, context)

    async def DeltaAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> None:
        """Serve a stream in the delta (incremental) variant."""
        await self._serve(Delta(), request_iterator, context)

    async def _serve(self, codec: Codec, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            with self.streams.counted(context.peer()):
                first = await self._first(requests, context)
                if first is not None:
                    await self._bring_up_to_date(codec, first, requests, context)
        except (TooManyStreamsError, TooManyNamesError) as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _first(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """Return the first request, which identifies the node; None if the client has left."""
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
                f"node.id must have at most {MAX_NODE_WORDS} characters, all of them printable",
            )
        return first

    async def _bring_up_to_date(
        self, codec: Codec, first: Any, requests: AsyncIterator[Any], context: Context
    ) -> None:
        session = self._session(codec, first.node)
        wake = asyncio.Event()
        self._wakes.add(wake)
        reader = asyncio.create_task(_read(codec, session, first, requests, wake))
        try:
            while not reader.done():
                push = session.next(self.snapshot) if self.snapshot else None
                if push is not None:
                    await context.write(codec.encode(push))
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

    def _session(self, codec: Codec, sender: Any) -> Session:
        node = self.nodes.connected(sender.id, _shown(sender.cluster), _shown(_user_agent(sender)))
        session = Session(node, codec.variant)
        node.begin(session)
        log.info("stream started", node=node.identity, variant=codec.variant, agent=node.user_agent)
        return session


async def _read(
    codec: Codec, session: Session, first: Any, requests: AsyncIterator[Any], wake: asyncio.Event
) -> None:
    """Decode every request of a stream, and wake the sender after each and at the end."""
    try:
        _decode(codec, session, first)
        wake.set()
        async for request in requests:
            _decode(codec, session, request)
            wake.set()
    finally:
        wake.set()


def _decode(codec: Codec, session: Session, request: Any) -> None:
    if request.type_url in WARMING_ORDER:  # other types, such as secrets, are never served
        codec.decode(session, request)


def _user_agent(node: Any) -> str:
    version = node.user_agent_build_version.version
    numbers = f"{version.major_number}.{version.minor_number}.{version.patch}"
    known = node.HasField("user_agent_build_version")
    return f"{node.user_agent_name} {numbers if known else node.user_agent_version}".strip()


def _shown(words: str) -> str:
    """Return a client's text, truncated and without unprintable characters, for display."""
    return "".join(filter(str.isprintable, words[:MAX_NODE_WORDS]))
