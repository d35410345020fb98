"""The xDS services: one aggregated delta stream per Envoy, and the status of every client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import grpc.aio
import structlog
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from prometheus_client import Counter, Gauge

from vireo.server.control.clients import Client, ClientLimitError, Push
from vireo.server.control.snapshot import KINDS, WARMING_ORDER, Snapshot, version_of
from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.reading import Context
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.streams import STREAM_RETRY, Places

log = structlog.get_logger()

SNAPSHOTS = Counter("vireo_xds_snapshots", "Snapshots that were published.")
INFO = Gauge(
    "vireo_xds_snapshot_info",
    "1 for the version of each kind of resource in the newest snapshot.",
    ["kind", "version"],
)
CLIENTS = Gauge("vireo_xds_clients", "Connected clients, by kind: envoy or other.", ["client"])
REFUSED = Counter(
    "vireo_xds_streams_refused", "Streams refused by the limit of their address, or of all streams."
)
REFUSED_RESOURCES = Gauge(
    "vireo_xds_refused_resources",
    "Resources of the newest snapshot that a connected client has refused, over all clients; "
    "`vireo control snapshot` shows the reasons.",
    ["kind"],
)
MAX_NODE_LENGTH = 256
"""Maximum characters of a node's id; its cluster and user agent are truncated to this."""
NAME: str = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name
_STATUS: str = csds_pb2.DESCRIPTOR.services_by_name["ClientStatusDiscoveryService"].full_name
_MAX_STREAMS = 750
"""Maximum streams; when all are open, the address with the most yields to one with fewer."""
_FIRST_REQUEST_SECONDS = 10.0
"""Maximum seconds until a stream's first request, which identifies its client."""


class DiscoveryServicer(
    ads_pb2_grpc.AggregatedDiscoveryServiceServicer,  # type: ignore[misc]
    csds_pb2_grpc.ClientStatusDiscoveryServiceServicer,  # type: ignore[misc]
):
    """Keeps every client up to date with the newest snapshot, and serves the status of all."""

    def __init__(self) -> None:
        """Start without a snapshot, and export what clients have."""
        self.snapshot: Snapshot | None = None
        """The newest snapshot; None before the first."""
        self.clients: dict[Client, asyncio.Event] = {}
        """Every Envoy with a stream, and what wakes the stream's sender."""
        self.streams = Places(_MAX_STREAMS, STREAM_RETRY)
        for kind in ("envoy", "other"):
            CLIENTS.labels(kind).set_function(partial(self._count, envoys=kind == "envoy"))
        for kind, word in KINDS.items():
            REFUSED_RESOURCES.labels(word).set_function(partial(self._count_nacks, kind))

    # Scrapes count in another thread, so by copies.

    def _count(self, *, envoys: bool) -> int:
        agents = [each.user_agent.lower() for each in [*self.clients]]
        return sum(agent.startswith("envoy") == envoys for agent in agents)

    def _count_nacks(self, kind: str) -> int:
        subscriptions = [each.subscriptions.get(kind) for each in [*self.clients]]
        return sum(len(each.nacks) for each in subscriptions if each)

    def publish(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest one, and wake all streams."""
        self.snapshot = snapshot
        SNAPSHOTS.inc()
        INFO.clear()
        for kind, resources in snapshot.items():
            version = version_of({name: each.version for name, each in resources.items()})
            INFO.labels(KINDS[kind], version).set(1)
        for wake in self.clients.values():
            wake.set()

    # It writes to the context instead of yielding: a generator suspended in a yield ends only
    # when it is garbage collected, not when its stream ends.

    async def DeltaAggregatedResources(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> None:
        """Serve a stream."""
        address = context.peer().rpartition(":")[0]
        try:
            async with self.streams.place(address):
                first = await _first(request_iterator, context)
                if first is not None:
                    await self._bring_up_to_date(first, request_iterator, context)
        except RpcError as error:
            REFUSED.inc()
            await context.abort(error.code, error.message)
        except ClientLimitError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _bring_up_to_date(
        self, first: Any, requests: AsyncIterator[Any], context: Context
    ) -> None:
        node = first.node
        client = Client(node.id, _shown(node.cluster), _shown(_user_agent(node)))
        log.info("stream started", node=node.id, agent=client.user_agent)
        wake = self.clients[client] = asyncio.Event()
        reader = asyncio.create_task(_read(client, first, requests, wake))
        reader.add_done_callback(lambda _: wake.set())
        try:
            while not reader.done():
                push = client.next(self.snapshot) if self.snapshot else None
                if push is not None:
                    await context.write(_response(push))
                    continue
                await wake.wait()
                wake.clear()
            reader.result()
        finally:
            del self.clients[client]
            log.info("stream ended", node=node.id)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def FetchClientStatus(self, request: Any, context: Context) -> Any:  # noqa: N802
        """Return the status of all clients: what each has accepted and rejected, and why.

        It has no contents of resources.
        """
        if request.node_matchers:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "node_matchers aren't supported; leave them out"
            )
        clients = sorted(self.clients, key=lambda each: each.identity)
        return csds_pb2.ClientStatusResponse(config=map(_status, clients))


async def _first(requests: AsyncIterator[Any], context: Context) -> Any:
    """Return the first request, which identifies the node; None if the client has left."""
    try:
        async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
            first = await anext(aiter(requests), None)
    except TimeoutError:
        await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"no request was received in {_FIRST_REQUEST_SECONDS:g} s",
        )
    if first is not None and not (first.node.id and _shown(first.node.id) == first.node.id):
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"the first request's node.id must have 1 to {MAX_NODE_LENGTH} printable characters",
        )
    return first


async def _read(
    client: Client, first: Any, requests: AsyncIterator[Any], wake: asyncio.Event
) -> None:
    """Apply every request of a stream, and wake the sender after each."""
    _apply(client, first)
    wake.set()
    async for request in requests:
        _apply(client, request)
        wake.set()


def _apply(client: Client, request: Any) -> None:
    """Apply a request: first its ACK or NACK, then its subscriptions."""
    kind, nonce = request.type_url, request.response_nonce
    if kind not in WARMING_ORDER:
        return  # other types, such as secrets, are never served
    if nonce and request.HasField("error_detail"):
        client.nack(kind, nonce, request.error_detail.message)
    elif nonce:
        client.ack(kind, nonce)
    client.change(
        kind,
        request.resource_names_subscribe,
        request.resource_names_unsubscribe,
        request.initial_resource_versions,
    )


def _response(push: Push) -> Any:
    response = pb.DeltaDiscoveryResponse(
        system_version_info=push.version,
        type_url=push.kind,
        nonce=push.nonce,
        removed_resources=sorted(push.removed),
    )
    if each := push.resource:
        response.resources.add(name=each.name, version=each.version, resource=each.body)
    return response


def _user_agent(node: Any) -> str:
    version = node.user_agent_build_version.version
    numbers = f"{version.major_number}.{version.minor_number}.{version.patch}"
    known = node.HasField("user_agent_build_version")
    return f"{node.user_agent_name} {numbers if known else node.user_agent_version}".strip()


def _shown(text: str) -> str:
    """Return a client's text, truncated and without unprintable characters, for display."""
    return "".join(filter(str.isprintable, text[:MAX_NODE_LENGTH]))


def _status(client: Client) -> Any:
    node = Node(id=client.identity, cluster=client.cluster, user_agent_name=client.user_agent)
    config = csds_pb2.ClientConfig(node=node)
    for kind in WARMING_ORDER:
        known = client.subscriptions.get(kind)
        if known is None:
            continue
        pending = known.pending.resource if known.pending else None
        waiting = {pending.name} if pending else set()
        for name in sorted({*known.has, *known.nacks, *waiting}):
            each = config.generic_xds_configs.add(type_url=kind, name=name)
            each.version_info = known.has.get(name, "")
            if name in known.acked_at:
                each.last_updated.FromDatetime(known.acked_at[name])
            each.config_status, each.client_status = csds_pb2.SYNCED, ClientResourceStatus.ACKED
            if nack := known.nacks.get(name):
                each.config_status, each.client_status = csds_pb2.ERROR, ClientResourceStatus.NACKED
                each.error_state.details = nack.message
                each.error_state.version_info = nack.version
                each.error_state.last_update_attempt.FromDatetime(nack.at)
            elif name in waiting:
                each.config_status = csds_pb2.STALE if name in known.has else csds_pb2.NOT_SENT
                each.client_status = ClientResourceStatus.REQUESTED
    return config


def add_xds_services(server: RpcServer) -> DiscoveryServicer:
    """Add both xDS services to a server; return the one to publish snapshots to."""
    servicer = DiscoveryServicer()
    add_ads = ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server
    add_status = csds_pb2_grpc.add_ClientStatusDiscoveryServiceServicer_to_server
    server.add(NAME, partial(add_ads, servicer))
    server.add(_STATUS, partial(add_status, servicer))
    return servicer
