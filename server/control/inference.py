"""The Open Inference Protocol by HTTP at the edge: clusters, routes, a scope, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.message import Message

from vireo.server.control import access
from vireo.server.control.mesh import INNER, Endpoint, Members, Service
from vireo.server.control.settings import ControlSettings
from vireo.server.control.templates import filled, message

Document = dict[str, Any]

_HTTP_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SCOPES = "envoy.filters.http.rbac"
_MAX_PORT = 65535


def name(service: Service) -> str:
    """Return the name of the cluster of a service's pods by HTTP."""
    return f"{service}-http"


def clusters(settings: ControlSettings) -> Iterator[Message]:
    """Yield the clusters of production's pods by HTTP/1.1: those of gRPC with another protocol."""
    for service in INNER:
        values = {"name": name(service), "service": "", "no_traffic_healthy_interval": "3s"}
        cluster = filled("cluster", values)
        options = cluster["typed_extension_protocol_options"][_HTTP_PROTOCOL]
        options["explicit_http_config"] = {"http_protocol_options": {}}
        for check in cluster["health_checks"]:
            del check["grpc_health_check"]
            check["http_health_check"] = {"path": "/v2/health/ready"}
        access.guard_cluster(cluster, service, settings)
        if "transport_socket" in cluster:
            tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
            tls["alpn_protocols"] = ["http/1.1"]
        yield message(Cluster, cluster)


def by_http(members: Members, offset: int) -> Members:
    """Return the pods at their ports of HTTP; one whose port would be too high is left out."""

    def moved(endpoints: frozenset[Endpoint]) -> frozenset[Endpoint]:
        return frozenset(
            Endpoint(each.host, each.port + offset)
            for each in endpoints
            if each.port + offset <= _MAX_PORT
        )

    return Members(moved(members.active), moved(members.draining))


def open_edge(listener: Document, routes: Document) -> None:
    """Add the routes to the edge, and the scope that they need if tokens are required."""
    document = filled("edge_inference", {})
    for host in routes["virtual_hosts"]:
        host["routes"][-1:-1] = document["routes"]  # before the one for all other paths
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["local_reply_config"]["mappers"].insert(0, document["reply"])
    for each in manager["http_filters"]:
        if each["name"] == _SCOPES:
            each["typed_config"]["rules"]["policies"]["vireo.inference"] = document["scope"]
