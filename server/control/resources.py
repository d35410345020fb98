"""Build the xDS resources of a mesh from the templates in `envoy/`."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Iterator, Mapping, Sequence
from string import Template
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import DRAINING, UNKNOWN
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from vireo.server.control import access, inference, tracing
from vireo.server.control.mesh import GRPC_SERVICES, INNER, POOLS, Members, Mesh, Pool, Service
from vireo.server.control.settings import ControlSettings
from vireo.server.control.snapshot import Snapshot
from vireo.server.control.templates import FOLDER, filled, message

# By default a pool with one of two pods unhealthy spills 30% of its calls over to the next
# priority; with this factor it keeps them as long as one pod is healthy.
_OVERPROVISIONED = 100_000
_RARELY = "30s"
"""Interval of health checks of canary and shadow pools before their first call: most get none, and
canary pools contain production's pods too, which are checked in their own."""


def snapshot(settings: ControlSettings, mesh: Mesh) -> Snapshot:
    """Return the snapshot of all resources of a mesh."""
    return Snapshot.of(_resources(settings, mesh))


def _resources(settings: ControlSettings, mesh: Mesh) -> Iterator[Message]:
    for pool in POOLS:
        values = {
            "name": pool.cluster,
            "service": GRPC_SERVICES[pool.service],
            "no_traffic_healthy_interval": "3s" if pool.name == "production" else _RARELY,
        }
        cluster = filled("cluster", values)
        access.guard_cluster(cluster, pool.service, settings)
        yield message(Cluster, cluster)
        yield _load_assignment(pool, mesh)
    if settings.oip_http_offset:
        yield from inference.clusters(settings)
        for service in INNER:
            members = inference.by_http(mesh.of(Pool(service)), settings.oip_http_offset)
            yield _assignment(inference.name(service), [members])
    yield from tracing.clusters(settings)
    edge = _edge_values(settings)
    listener = filled("edge_listener", edge)
    tracing.trace_edge(listener, settings)
    access.guard_edge(listener, settings, mesh.jwks)
    routes = filled("edge_routes", edge)
    if settings.oip_http_offset:
        inference.open_edge(listener, routes)
    yield message(Listener, listener)
    access.guard_edge_routes(routes, settings)
    yield message(RouteConfiguration, routes)
    for service in INNER:
        port = getattr(settings, f"{service}_port")
        listener = filled("inner_listener", {"name": service, "port": port})
        access.guard_inner(listener, settings)
        tracing.trace_inner(listener, settings)
        yield message(Listener, listener)
        yield _inner_routes(service, mesh)


def _edge_values(settings: ControlSettings) -> dict[str, object]:
    openapi = _packaged("openapi.json")
    request_script = Template((FOLDER / "edge_request.lua").read_text()).safe_substitute(
        rest_methods="\n  ".join(_rest_methods(json.loads(openapi))),
        viewer_claim=settings.viewer_claim,
    )
    return {
        "edge_host": settings.edge_host,
        "edge_port": settings.edge_port,
        "cors_origins": settings.cors_origins,
        "default_duration": f"{min(10.0, max(0.001, settings.default_deadline)):.3f}s",
        "default_timeout": f"{max(1, round(settings.default_deadline * 1000))}m",
        # Inline, since an Envoy on another machine doesn't have our files.
        "descriptors": base64.b64encode(_packaged("descriptors.binpb")).decode(),
        "openapi": base64.b64encode(openapi).decode(),
        "bad_request_script": (FOLDER / "bad_request.lua").read_text(),
        "edge_request_script": request_script,
        "trusted_hops": settings.trusted_hops,
        **access.stream_refusals(),
    }


def _packaged(name: str) -> bytes:
    """Return a file generated from the protos."""
    return (importlib.resources.files("vireo") / name).read_bytes()


def _rest_methods(openapi: Mapping[str, Any]) -> Iterator[str]:
    """Yield the methods by REST as Lua has them in `edge_request.lua`."""
    # Of two paths that match a request, the transcoder prefers the one with fewer fields.
    for path in sorted(openapi["paths"], key=lambda path: path.count("{")):
        for verb, operation in openapi["paths"][path].items():
            parameters = "body" if "requestBody" in operation else "query"
            method = "/".join(operation["operationId"].split("_")[:2])
            yield f"'{verb.upper()} {path} {parameters} /vireo.v1.{method}',"


def _load_assignment(pool: Pool, mesh: Mesh) -> Message:
    """Return the endpoints of a pool; a canary pool fails over to production's pods."""
    canary = pool.name == "canary"
    priorities = [mesh.of(pool), *([mesh.of(Pool(pool.service))] if canary else ())]
    policy = {"overprovisioning_factor": _OVERPROVISIONED} if canary else {}
    return _assignment(pool.cluster, priorities, policy)


def _assignment(
    cluster: str, priorities: Sequence[Members], policy: Mapping[str, object] | None = None
) -> Message:
    """Return the endpoints of a cluster by priority."""
    endpoints = [{"priority": priority} for priority in range(len(priorities))]
    document = {"cluster_name": cluster, "policy": policy or {}, "endpoints": endpoints}
    assignment = message(ClusterLoadAssignment, document)
    _add_endpoints(assignment, priorities)
    return assignment


def _add_endpoints(assignment: ClusterLoadAssignment, priorities: Sequence[Members]) -> None:
    """Add the pods of each priority, sorted so that the same ones yield the same resource.

    Without a document in between, which would take ten times as long: there may be thousands.
    """
    for locality, members in zip(assignment.endpoints, priorities, strict=True):
        for status, endpoints in ((UNKNOWN, members.active), (DRAINING, members.draining)):
            for each in sorted(endpoints):
                added = locality.lb_endpoints.add(health_status=status)
                address = added.endpoint.address.socket_address
                address.address, address.port_value = each.host, each.port


def _inner_routes(service: Service, mesh: Mesh) -> Message:
    """Return the routes to a service's pools, without the canary's while it has no buckets."""
    buckets = mesh.canary_buckets
    document = filled("inner_routes", {"name": service, "canary_buckets": buckets})
    if not buckets:
        for host in document["virtual_hosts"]:
            host["routes"] = [route for route in host["routes"] if route["name"] != "canary"]
    return message(RouteConfiguration, document)
