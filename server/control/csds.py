"""The client status discovery service: the resources of each client of the control plane."""

from __future__ import annotations

from typing import Any

import grpc
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.service.status.v3 import csds_pb2 as pb
from envoy.service.status.v3 import csds_pb2_grpc

from vireo.server.control.clients import Client, Clients
from vireo.server.control.nodes import Node
from vireo.server.control.snapshot import WARMING_ORDER
from vireo.server.control.subscription import Subscription

NAME: str = pb.DESCRIPTOR.services_by_name["ClientStatusDiscoveryService"].full_name
CONNECTED = "connected"
"""Key of the node's metadata for whether it has an open stream."""


class StatusServicer(csds_pb2_grpc.ClientStatusDiscoveryServiceServicer):  # type: ignore[misc]
    """Serves client status from the registry of clients."""

    def __init__(self, clients: Clients) -> None:
        """Serve the status of these clients."""
        self._clients = clients

    async def FetchClientStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the status of all clients, or of those that match a node id."""
        ids = set()
        for matcher in request.node_matchers:
            if matcher.node_id.WhichOneof("match_pattern") != "exact" or matcher.node_metadatas:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    "node_matchers: only node_id with an exact match is supported",
                )
            ids.add(matcher.node_id.exact)
        return pb.ClientStatusResponse(
            config=[
                _config(client, with_bodies=not request.exclude_resource_contents)
                for client in self._clients.all()
                if not ids or client.node.identity in ids
            ]
        )


def _config(client: Client, *, with_bodies: bool) -> Any:
    node = client.node
    message = NodeMessage(id=node.identity, cluster=node.cluster, user_agent_name=node.user_agent)
    message.metadata.update({CONNECTED: client.connected})
    resources = [
        _resource(node, kind, name, subscription, with_bodies=with_bodies)
        for kind in WARMING_ORDER
        for name, subscription in sorted(_subscriptions(client, kind).items())
    ]
    return pb.ClientConfig(node=message, generic_xds_configs=resources)


def _subscriptions(client: Client, kind: str) -> dict[str, Subscription]:
    """Return, by name, the subscription of each resource that was sent, ACKed or NACKed."""
    found: dict[str, Subscription] = {}
    for session in client.sessions:
        if known := session.subscriptions.get(kind):
            sent = known.pending.resources if known.pending else ()
            nacked = [
                name for name in client.node.nacked(kind) if known.wildcard or name in known.names
            ]
            found |= dict.fromkeys([*known.has, *sent, *nacked], known)
    return found


def _resource(node: Node, kind: str, name: str, known: Subscription, *, with_bodies: bool) -> Any:
    resource = pb.ClientConfig.GenericXdsConfig(
        type_url=kind, name=name, version_info=known.has.get(name, "")
    )
    good = node.good[kind].get(name)
    if with_bodies and good is not None:
        resource.xds_config.CopyFrom(good.body)
    if name in known.acked_at:
        resource.last_updated.FromDatetime(known.acked_at[name])
    nack = node.nacked(kind).get(name)
    sent = known.pending.resources.get(name) if known.pending else None
    if nack is not None:
        status = pb.ERROR, ClientResourceStatus.NACKED
        resource.error_state.details = nack.message
        resource.error_state.version_info = nack.versions[name]
        resource.error_state.last_update_attempt.FromDatetime(nack.at)
    elif sent is not None and sent.version != known.has.get(name):
        stale = pb.STALE if name in known.has else pb.NOT_SENT
        status = stale, ClientResourceStatus.REQUESTED
    else:
        status = pb.SYNCED, ClientResourceStatus.ACKED
    resource.config_status, resource.client_status = status
    return resource
