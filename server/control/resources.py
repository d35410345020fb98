"""Build the xDS resources of a mesh from the templates in `envoy/`."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Iterable, Iterator, Mapping
from string import Template
from typing import Any

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.rpc import error_details_pb2

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
from vireo.server.control.snapshot import Resource, Snapshot, by_kind
from vireo.server.control.templates import FOLDER, filled, resource
from vireo.server.rpc.errors import RpcError
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
_RARELY = "30s"
"""Interval of health checks of canary pools before their first call: most get none, and they
contain production's pods too, which are checked in their own."""
_RETRY_SECONDS = 1
"""Seconds after which a caller's token bucket has refilled."""
_WATCH_SECONDS = 30
"""Seconds after which an address may open another health watch; see `edge_routes.yaml`."""
_TOO_MANY_STREAMS = "limit of health checks, watches or reflection streams exceeded"


def snapshot(settings: ControlSettings, mesh: Mesh) -> Snapshot:
    """Return the snapshot of all resources of a mesh."""
    return by_kind(
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
        values: dict[str, object] = {"grpc_check": {"service_name": GRPC_SERVICES[pool.service]}}
        if pool.name == "canary":
            values["no_traffic_healthy_interval"] = _RARELY
        if pool.service == "gateway" and (slate_pods := _slate_pods(mesh)):
            values["max_requests"] = slate_pods * _MAX_REQUESTS_OF_SLATE_POD
            values["max_streams"] = _MAX_STREAMS + slate_pods * _MAX_STREAMS_OF_SLATE_POD
        yield _cluster(pool.cluster, values, _tls("upstream_tls", settings, role=pool.service))
        if pool.name == "canary":
            yield _assignment(pool.cluster, mesh.of(pool), mesh.of(Pool(pool.service)))
        else:
            yield _assignment(pool.cluster, mesh.of(pool))


def _cluster(name: str, values: Mapping[str, object], tls: Document | None) -> Resource:
    """Return a cluster of pods that are reached by gRPC, unless `values` say otherwise."""
    usual = {
        "name": name,
        "tls": tls,
        "http1": None,
        "grpc_check": None,
        "http_check": None,
        "no_traffic_healthy_interval": "3s",
        "max_requests": _MAX_REQUESTS,
        "max_streams": _MAX_STREAMS,
    }
    return resource(Cluster, filled("cluster", {**usual, **values}))


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
    by_http = {"http1": {}, "http2_to_pods": None, "http_check": {"path": "/v2/health/ready"}}
    for service in INNER:
        name = f"{service}-http"
        yield _cluster(name, by_http, _tls("upstream_tls", settings, role=service, alpn="http/1.1"))
        at = ((each.host, each.port + settings.oip_http_offset) for each in mesh.of(Pool(service)))
        yield _assignment(name, [Endpoint(host, port) for host, port in at if port < 65536])


def _tls(template: str, settings: ControlSettings, **values: object) -> Document | None:
    """Return a transport socket for TLS, or mutual TLS, as a template says, if it is enabled."""
    if settings.envoy_secrets is None:
        return None
    return filled(template, {"secrets": settings.envoy_secrets, **values})


def _edge(settings: ControlSettings, mesh: Mesh) -> Iterator[Resource]:
    """Yield the edge's listener and routes."""
    values = {**_edge_values(settings), **_access(settings, mesh.jwks)}
    values["stream_priority"] = "HIGH" if _slate_pods(mesh) else None
    yield resource(Listener, filled("edge_listener", values))
    yield resource(RouteConfiguration, filled("edge_routes", values))


def _edge_values(settings: ControlSettings) -> dict[str, object]:
    openapi = _packaged("openapi.json")
    request_script = Template((FOLDER / "edge_request.lua").read_text()).safe_substitute(
        rest_methods="\n  ".join(_rest_methods(json.loads(openapi))),
        viewer_claim=settings.viewer_claim,
    )
    traced = _tracing(settings, settings.trace_share)
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
        "tracing": traced.get("tracing"),
        "foreign_traces": None if settings.trace_callers else traced.get("foreign_traces"),
    }


def _access(settings: ControlSettings, jwks: str) -> dict[str, object]:
    """Return the edge's TLS, tokens, scopes and rate limits, and what depends on them.

    Args:
        settings: which of them are enabled.
        jwks: the public keys that tokens are verified with.
    """
    rate = settings.rate_limit
    exceeded = f"rate limit of {rate} calls per second exceeded; retry in {_RETRY_SECONDS} s"
    later = _refusal(exceeded, _RETRY_SECONDS)
    buckets = {"rate": rate, "burst": settings.rate_burst or rate, "later": later}
    limits = filled("edge_rate_limit", buckets)
    by_caller = limits["by_subject" if settings.jwks else "by_address"] if rate else None
    inference: Document = {}
    if settings.oip_http_offset:
        inference = filled("edge_inference", {"rate_limits": by_caller})
    words = {"rate_exceeded": exceeded, "too_many_streams": _TOO_MANY_STREAMS}
    names = {"issuer": settings.jwt_issuer, "audience": settings.jwt_audience, "jwks": jwks}
    scopes = {"inference": inference.get("scope")}
    return {
        "tls": _tls("edge_tls", settings),
        "tokens": filled("edge_tokens", names) if settings.jwks else None,
        "scopes": filled("edge_scopes", scopes) if settings.jwks else None,
        "rate_limit": limits["filter" if rate else "filter_of_routes"],
        "rate_limits": by_caller,
        "exposed": ", retry-after" if rate else "",
        "replies": filled("edge_replies", words)["replies"],
        "inference_replies": inference.get("replies"),
        "inference_routes": inference.get("routes"),
        "later": _refusal(_TOO_MANY_STREAMS, _RETRY_SECONDS),
        "much_later": _refusal(_TOO_MANY_STREAMS, _WATCH_SECONDS),
    }


def _refusal(message: str, seconds: int) -> list[Document]:
    """Return the headers with the retry delay, for REST and for gRPC callers."""
    retry = error_details_pb2.RetryInfo(retry_delay={"seconds": seconds})
    status = RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, [retry]).status()
    # Unpadded, as gRPC encodes binary metadata.
    details = base64.b64encode(status).decode().rstrip("=")
    return [
        {"header": {"key": key, "value": text}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, text in (("retry-after", str(seconds)), ("grpc-status-details-bin", details))
    ]


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
        values = {
            "name": service,
            "port": getattr(settings, f"{service}_port"),
            "tls": _tls("inner_tls", settings),
            "tracing": _tracing(settings, 0.0).get("tracing"),  # of calls that the edge has sampled
        }
        yield resource(Listener, filled("inner_listener", values))
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
    if cluster := _tracing(settings, 0.0).get("cluster"):
        yield resource(Cluster, cluster)


def _tracing(settings: ControlSettings, share: float) -> Document:
    """Return what is configured for tracing; nothing without a collector of spans.

    `share` is that of the calls that are traced, of callers who don't trace themselves.
    """
    if not settings.otlp_endpoint:
        return {}
    collector = CollectorEndpoint.of(settings.otlp_endpoint)
    values = {
        "tls": _tls("upstream_tls", settings, role=COLLECTOR) if collector.secure else None,
        "collector_host": collector.host,
        "collector_port": collector.port,
        "sampled_per_million": round(share * 1e6),
    }
    return filled("tracing", values)
