"""The client status discovery service: what each client of the control plane has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import grpc
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus, UpdateFailureState
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.service.status.v3 import csds_pb2 as pb
from envoy.service.status.v3 import csds_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from server.control.nodes import Node, Nodes
from server.control.session import Session
from server.control.snapshot import WARMING_ORDER

NAME: str = pb.DESCRIPTOR.services_by_name["ClientStatusDiscoveryService"].full_name
CONNECTED = "connected"
"""Key of the node's metadata that tells whether its stream lasts."""
VARIANT = "variant"
"""Key of the node's metadata that tells which protocol it speaks."""

_ClientConfig = pb.ClientConfig
_Resource = pb.ClientConfig.GenericXdsConfig


class StatusServicer(csds_pb2_grpc.ClientStatusDiscoveryServiceServicer):  # type: ignore[misc]
    """Answers from the registry of nodes."""

    def __init__(self, nodes: Nodes) -> None:
        """Takes the registry."""
        self._nodes = nodes

    async def FetchClientStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What every client has now, or those that match a node id."""
        return await self._answer(request, context)

    async def StreamClientStatus(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        """The same for each request."""
        async for request in request_iterator:
            yield await self._answer(request, context)

    async def _answer(self, request: Any, context: Any) -> Any:
        ids = set()
        for matcher in request.node_matchers:
            if matcher.node_id.WhichOneof("match_pattern") != "exact" or matcher.node_metadatas:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    "node_matchers: only node_id with an exact match is understood",
                )
            ids.add(matcher.node_id.exact)
        return pb.ClientStatusResponse(
            config=[
                _config(node, with_bodies=not request.exclude_resource_contents)
                for node in self._nodes.all()
                if not ids or node.identity in ids
            ]
        )


def _config(node: Node, *, with_bodies: bool) -> Any:
    message = NodeMessage(id=node.identity, cluster=node.cluster, user_agent_name=node.user_agent)
    session = node.session
    message.metadata.update(
        {
            CONNECTED: session is not None and session.live,
            VARIANT: session.variant if session is not None else "",
        }
    )
    resources = [] if session is None else list(_resources(node, session, with_bodies=with_bodies))
    return _ClientConfig(node=message, generic_xds_configs=resources)


def _resources(node: Node, session: Session, *, with_bodies: bool) -> Iterator[Any]:
    """Each resource that the client has, was sent, or has refused."""
    for kind in WARMING_ORDER:
        known = session.subscriptions.get(kind)
        if known is None:
            continue
        refused = node.refused(kind)
        sent = known.pending.resources if known.pending else {}
        for name in sorted({*known.has, *sent, *refused}):
            resource = _Resource(type_url=kind, name=name, version_info=known.has.get(name, ""))
            good = node.good[kind].get(name)
            if with_bodies and good is not None:
                resource.xds_config.CopyFrom(good.body)
            if name in known.took_at:
                resource.last_updated.CopyFrom(_timestamp(known.took_at[name]))
            if name in refused:
                resource.config_status = pb.ERROR
                resource.client_status = ClientResourceStatus.NACKED
                resource.error_state.CopyFrom(
                    UpdateFailureState(
                        details=refused[name].words,
                        version_info=refused[name].versions[name],
                        last_update_attempt=_timestamp(refused[name].at),
                    )
                )
            elif name in sent and sent[name].version != known.has.get(name):
                resource.config_status = pb.STALE if name in known.has else pb.NOT_SENT
                resource.client_status = ClientResourceStatus.REQUESTED
            else:
                resource.config_status = pb.SYNCED
                resource.client_status = ClientResourceStatus.ACKED
            yield resource


def _timestamp(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
