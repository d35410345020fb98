"""The aggregated discovery service: one stream per Envoy, in the delta (incremental) variant."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from prometheus_client import Counter

from vireo.server.control.clients import Clients
from vireo.server.control.session import Session
from vireo.server.control.snapshot import WARMING_ORDER, Snapshot
from vireo.server.control.subscription import ClientLimitError, Push

log = structlog.get_logger()

SNAPSHOTS = Counter("vireo_xds_snapshots", "Snapshots that were published.")
REFUSED = Counter(
    "vireo_xds_streams_refused", "Streams refused by the limit of their address, or of all streams."
)
MAX_NODE_LENGTH = 256
"""Maximum characters of a node's id; its cluster and user agent are truncated to this."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
NAME: str = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name


@dataclass(frozen=True)
class Limits:
    """Limits of concurrent streams, below the server's limit of concurrent RPCs."""

    all: int
    address: int = 300
    """Maximum streams of one address, which Envoys behind a proxy share."""
    first_request_seconds: float = 10.0
    """Maximum seconds until a stream's first request, which identifies its node."""


class DiscoveryServicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Keeps every client up to date with the newest snapshot."""

    def __init__(self, clients: Clients, limits: Limits) -> None:
        """Start without a snapshot; `clients` is the registry of what each client has."""
        self.snapshot: Snapshot | None = None
        """The newest snapshot; None before the first."""
        self.clients = clients
        self.limits = limits
        self.streams: Counts[str] = Counts()
        """Number of open streams of each address."""
        self._wakes: set[asyncio.Event] = set()

    def publish(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest one, and wake all streams."""
        self.snapshot = snapshot
        SNAPSHOTS.inc()
        for wake in self._wakes:
            wake.set()

    # It writes to the context instead of yielding: a generator suspended in a yield ends only
    # when it is garbage collected, not when its stream ends.

    async def DeltaAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> None:
        """Serve a stream."""
        try:
            with self._counted(context.peer()):
                first = await self._first(request_iterator, context)
                if first is not None:
                    await self._bring_up_to_date(first, request_iterator, context)
        except ClientLimitError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    @contextmanager
    def _counted(self, peer: str) -> Iterator[None]:
        """Count a stream during the block, or raise ClientLimitError; `peer` ends with the port."""
        address = peer.rpartition(":")[0]
        reached = ""
        if self.streams.total() >= self.limits.all:
            reached = f"all {self.limits.all} streams are in use"
        elif self.streams[address] >= self.limits.address:
            reached = f"this address has the maximum of {self.limits.address} streams"
        if reached:
            REFUSED.inc()
            raise ClientLimitError(f"{reached}; retry later")
        self.streams[address] += 1
        try:
            yield
        finally:
            self.streams[address] -= 1
            if not self.streams[address]:
                del self.streams[address]

    async def _first(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """Return the first request, which identifies the node; None if the client has left."""
        seconds = self.limits.first_request_seconds
        try:
            async with asyncio.timeout(seconds):
                first = await anext(aiter(requests), None)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no request was received in {seconds:g} s"
            )
        problem = _node_problem(first.node.id) if first is not None else ""
        if problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        return first

    async def _bring_up_to_date(
        self, first: Any, requests: AsyncIterator[Any], context: Context
    ) -> None:
        sender = first.node
        session = self.clients.begin(sender.id, _shown(sender.cluster), _shown(_user_agent(sender)))
        node = session.node
        log.info("stream started", node=node.identity, agent=node.user_agent)
        wake = asyncio.Event()
        self._wakes.add(wake)
        reader = asyncio.create_task(_read(session, first, requests, wake))
        try:
            while not reader.done():
                push = session.next(self.snapshot) if self.snapshot else None
                if push is not None:
                    await context.write(_response(push))
                    continue
                await wake.wait()
                wake.clear()
            reader.result()
        finally:
            self._wakes.discard(wake)
            self.clients.end(session)
            log.info("stream ended", node=node.identity)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


async def _read(
    session: Session, first: Any, requests: AsyncIterator[Any], wake: asyncio.Event
) -> None:
    """Apply every request of a stream, and wake the sender after each and at the end."""
    try:
        _apply(session, first)
        wake.set()
        async for request in requests:
            _apply(session, request)
            wake.set()
    finally:
        wake.set()


def _apply(session: Session, request: Any) -> None:
    """Apply a request: first its ACK or NACK, then its subscriptions."""
    kind, nonce = request.type_url, request.response_nonce
    if kind not in WARMING_ORDER:
        return  # other types, such as secrets, are never served
    if nonce and request.HasField("error_detail"):
        session.nack(kind, nonce, request.error_detail.message)
    elif nonce:
        session.ack(kind, nonce)
    session.change(
        kind,
        request.resource_names_subscribe,
        request.resource_names_unsubscribe,
        request.initial_resource_versions,
    )


def _response(push: Push) -> Any:
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


def _node_problem(identity: str) -> str:
    """Return why a node's id is unusable; an empty string if it isn't."""
    if not identity:
        return "the first request has no node.id"
    if len(identity) > MAX_NODE_LENGTH or not identity.isprintable():
        return f"node.id must have at most {MAX_NODE_LENGTH} characters, all of them printable"
    return ""


def _user_agent(node: Any) -> str:
    version = node.user_agent_build_version.version
    numbers = f"{version.major_number}.{version.minor_number}.{version.patch}"
    known = node.HasField("user_agent_build_version")
    return f"{node.user_agent_name} {numbers if known else node.user_agent_version}".strip()


def _shown(text: str) -> str:
    """Return a client's text, truncated and without unprintable characters, for display."""
    return "".join(filter(str.isprintable, text[:MAX_NODE_LENGTH]))
