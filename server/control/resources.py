"""Build the xDS resources of a mesh from the templates in `envoy/`."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Iterable, Iterator, Mapping
from string import Template
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from vireo.server.control import access
from vireo.server.control.mesh import (
    GRPC_SERVICES,
    INNER,
    POOLS,
    Endpoint,
    Mesh,
    Pool,
    Service,
)
from vireo.server.control.settings import ControlSettings
from vireo.server.control.snapshot import Resource, Snapshot
from vireo.server.control.templates import FOLDER, filled, resource
from vireo.server.rpc.settings import COLLECTOR
from vireo.server.rpc.settings import Endpoint as CollectorEndpoint

Document = dict[str, Any]

# By default a pool with one of two pods unhealthy spills 30% of its calls over to the next
# priority; with this factor it keeps them as long as one pod is healthy.
_OVERPROVISIONED = 100_000
_MAX_REQUESTS, _MAX_STREAMS = 65536, 100
_MAX_REQUESTS_OF_SLATE_POD, _MAX_STREAMS_OF_SLATE_POD = 32, 60
"""A gateway refuses a flood itself, fairly by caller. A slate pod makes slates besides, and gRPC
hands calls over one by one: it would never see most of them before they are late. So Envoy refuses
what doesn't fit into a pod's slots and queue, with room for the calls that are soon answered."""
_STREAMS = ("batch", "rest_batch", "stream_events")
"""Routes of streams, which are counted apart from calls then."""
_RARELY = "30s"
"""Interval of health checks of canary pools before their first call: most get none, and they
contain production's pods too, which are checked in their own."""
_HTTP_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def snapshot(settings: ControlSettings, mesh: Mesh) -> Snapshot:
    """Return the snapshot of all resources of a mesh."""
    return Snapshot.of(
        [
            *_pools(settings, mesh),
            *_pools_by_http(settings, mesh),
            *_collector(settings),
            *_edge(settings, mesh),
            *_inner(settings, mesh),
        ]
    )


def _pools(settings: ControlSettings, mesh: Mesh) -> Iterator[Resource]:
    """Yield the cluster and the endpoints of each pool; a canary fails over to production."""
    for pool in POOLS:
        values: dict[str, object] = {
            "name": pool.cluster,
            "service": GRPC_SERVICES[pool.service],
            "no_traffic_healthy_interval": "3s" if pool.name == "production" else _RARELY,
            "max_requests": _MAX_REQUESTS,
            "max_streams": _MAX_STREAMS,
        }
        if pool.service == "gateway" and (slate_pods := _slate_pods(mesh)):
            values["max_requests"] = slate_pods * _MAX_REQUESTS_OF_SLATE_POD
            values["max_streams"] = _MAX_STREAMS + slate_pods * _MAX_STREAMS_OF_SLATE_POD
        cluster = filled("cluster", values)
        access.guard_cluster(cluster, pool.service, settings)
        yield resource(Cluster, cluster)
        if pool.name == "canary":
            yield _assignment(pool.cluster, mesh.of(pool), mesh.of(Pool(pool.service)))
        else:
            yield _assignment(pool.cluster, mesh.of(pool))


def _slate_pods(mesh: Mesh) -> int:
    """Return the number of slate pods if these are all gateways, else 0.

    It is rounded up to a power of two: a cluster with another limit is made anew.
    """
    gateways = mesh.of(Pool("gateway"))
    alone = bool(gateways) and gateways <= mesh.of(Pool("ranking"))
    return 1 << (len(gateways) - 1).bit_length() if alone else 0


def _assignment(cluster: str, *priorities: Iterable[Endpoint]) -> Resource:
    """Return the endpoints of a cluster by priority.

    They are sorted, so that the same ones yield the same resource, and made without a document,
    which would take ten times as long: there may be thousands.
    """
    assignment = ClusterLoadAssignment(cluster_name=cluster)
    if len(priorities) > 1:
        assignment.policy.overprovisioning_factor.value = _OVERPROVISIONED
    for priority, endpoints in enumerate(priorities):
        locality = assignment.endpoints.add(priority=priority)
        for each in sorted(endpoints):
            address = locality.lb_endpoints.add().endpoint.address.socket_address
            address.address, address.port_value = each.host, each.port
    return Resource.of(assignment)


def _pools_by_http(settings: ControlSettings, mesh: Mesh) -> Iterator[Resource]:
    """Yield production's pools by HTTP/1.1, for the Open Inference Protocol, if it is enabled."""
    if not settings.oip_http_offset:
        return
    for service in INNER:
        name = f"{service}-http"
        values: dict[str, object] = {"name": name, "service": "", "max_requests": _MAX_REQUESTS}
        values |= {"no_traffic_healthy_interval": "3s", "max_streams": _MAX_STREAMS}
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
        yield resource(Cluster, cluster)
        at = ((each.host, each.port + settings.oip_http_offset) for each in mesh.of(Pool(service)))
        yield _assignment(name, [Endpoint(host, port) for host, port in at if port < 65536])


def _edge(settings: ControlSettings, mesh: Mesh) -> Iterator[Resource]:
    """Yield the edge's listener and routes."""
    values = _edge_values(settings)
    listener, routes = filled("edge_listener", values), filled("edge_routes", values)
    manager = _trace(listener, settings, settings.trace_share)
    if settings.otlp_endpoint and not settings.trace_callers:
        mutations = _tracing(settings, 0.0)["foreign_traces"]
        manager["early_header_mutation_extensions"] = mutations
    access.guard_edge(listener, settings, mesh.jwks)
    if settings.oip_http_offset:
        access.open_inference(listener, routes)
    yield resource(Listener, listener)
    access.guard_edge_routes(routes, settings)
    for route in routes["virtual_hosts"][0]["routes"] if _slate_pods(mesh) else ():
        if route["name"] in _STREAMS:
            route["route"]["priority"] = "HIGH"
    yield resource(RouteConfiguration, routes)


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


def _inner(settings: ControlSettings, mesh: Mesh) -> Iterator[Resource]:
    """Yield the listener and routes of each service that gateways call."""
    for service in INNER:
        port = getattr(settings, f"{service}_port")
        listener = filled("inner_listener", {"name": service, "port": port})
        access.use_tls(listener, "inner_tls", settings)
        _trace(listener, settings, 0.0)  # calls that the edge has sampled
        yield resource(Listener, listener)
        yield _inner_routes(service, mesh)


def _inner_routes(service: Service, mesh: Mesh) -> Resource:
    """Return the routes to a service's pools, without the canary's while it has no buckets."""
    buckets = mesh.canary_buckets
    document = filled("inner_routes", {"name": service, "canary_buckets": buckets})
    if not buckets:
        for host in document["virtual_hosts"]:
            host["routes"] = [route for route in host["routes"] if route["name"] != "canary"]
    return resource(RouteConfiguration, document)


def _collector(settings: ControlSettings) -> Iterator[Resource]:
    """Yield the cluster of the collector of spans, if there is one."""
    if settings.otlp_endpoint:
        cluster = _tracing(settings, 0.0)["cluster"]
        if CollectorEndpoint.of(settings.otlp_endpoint).secure:
            access.guard_cluster(cluster, COLLECTOR, settings)
        yield resource(Cluster, cluster)


def _trace(listener: Document, settings: ControlSettings, share: float) -> Document:
    """Trace a listener's calls, if there is a collector; return its connection manager.

    `share` is that of the calls of callers who don't trace themselves.
    """
    manager: Document = listener["filter_chains"][0]["filters"][0]["typed_config"]
    if settings.otlp_endpoint:
        manager["tracing"] = _tracing(settings, share)["tracing"]
    return manager


def _tracing(settings: ControlSettings, share: float) -> Document:
    collector = CollectorEndpoint.of(settings.otlp_endpoint)
    values = {
        "collector_host": collector.host,
        "collector_port": collector.port,
        "sampled_per_million": round(share * 1e6),
    }
    return filled("tracing", values)
