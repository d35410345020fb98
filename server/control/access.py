"""Access to the edge, inner listeners and clusters: TLS, tokens, scopes and rate limits."""

from __future__ import annotations

import base64
from typing import Any

import grpc
from google.rpc import error_details_pb2

from vireo.server.control.settings import ControlSettings
from vireo.server.control.templates import filled
from vireo.server.rpc.errors import RpcError

Document = dict[str, Any]

_RETRY_SECONDS = 1
"""Seconds after which a caller's token bucket has refilled."""
_TOKENS = "envoy.filters.http.jwt_authn"
_RATE_LIMIT = "envoy.filters.http.local_ratelimit"
_SCOPES = "envoy.filters.http.rbac"
_WATCH_SECONDS = 30
"""Seconds after which an address may open another health watch; see `edge_routes.yaml`."""
_TOO_MANY_STREAMS = "limit of health checks, watches or reflection streams exceeded"

# An IPv6 subscriber usually has a whole /64.
_ADDRESS: Document = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
_CALLER: Document = {
    "metadata": {
        "descriptor_key": "caller",
        "metadata_key": {"key": _TOKENS, "path": [{"key": "claims"}, {"key": "sub"}]},
        "default_value": "nobody",  # tokens without a subject share one bucket
    }
}


def guard_edge(listener: Document, settings: ControlSettings, jwks: str) -> None:
    """Add TLS, tokens and rate limits to the edge's listener, with error messages for callers.

    Args:
        listener: the document of `edge_listener.yaml`.
        settings: which of TLS, tokens and rate limits are enabled.
        jwks: the public keys that tokens are verified with.
    """
    use_tls(listener, "edge_tls", settings)
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    filters = manager["http_filters"]
    names = [each["name"] for each in filters]
    exceeded = f"rate limit of {settings.rate_limit} calls per second exceeded"
    exceeded += f"; retry in {_RETRY_SECONDS} s"
    if settings.rate_limit:
        values = {
            "rate": settings.rate_limit,
            "burst": settings.rate_burst or settings.rate_limit,
            "later": _refusal(exceeded, _RETRY_SECONDS),
        }
        filters[names.index(_RATE_LIMIT)] = filled("edge_rate_limit", values)
    if settings.jwks:
        filters.insert(-1, filled("edge_scopes", {}))
        issuer, audience = settings.jwt_issuer, settings.jwt_audience
        tokens = filled("edge_tokens", {"issuer": issuer, "audience": audience, "jwks": jwks})
        # After the gRPC-Web filter, so that errors reach callers in their own protocol, and before
        # any other work for an unauthenticated caller.
        filters.insert(names.index("envoy.filters.http.grpc_web") + 1, tokens)
    words = {"rate_exceeded": exceeded, "too_many_streams": _TOO_MANY_STREAMS}
    manager["local_reply_config"]["mappers"][:0] = filled("edge_replies", words)["replies"]


def guard_edge_routes(routes: Document, settings: ControlSettings) -> None:
    """Add rate limit descriptors to the edge's routes, and expose `retry-after` to web pages.

    A route with its own limit is unchanged.
    """
    if not settings.rate_limit:
        return
    for host in routes["virtual_hosts"]:
        for route in host["routes"]:
            if "route" in route and _RATE_LIMIT not in route.get("typed_per_filter_config", {}):
                action = _CALLER if settings.jwks else _ADDRESS
                route["route"]["rate_limits"] = [{"actions": [action]}]
        policy = host["typed_per_filter_config"]["envoy.filters.http.cors"]
        policy["expose_headers"] += ", retry-after"


def open_inference(listener: Document, routes: Document) -> None:
    """Add the routes of the Open Inference Protocol by HTTP, its errors, and the scope it needs."""
    document = filled("edge_inference", {})
    for host in routes["virtual_hosts"]:
        host["routes"][-1:-1] = document["routes"]  # before the one for all other paths
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["local_reply_config"]["mappers"].insert(0, document["reply"])
    for each in manager["http_filters"]:
        if each["name"] == _SCOPES:  # only with tokens
            each["typed_config"]["rules"]["policies"]["vireo.inference"] = document["scope"]


def use_tls(listener: Document, template: str, settings: ControlSettings) -> None:
    """Have a listener's callers use TLS as a template says, if it is enabled."""
    if settings.envoy_secrets is not None:
        [chain] = listener["filter_chains"]
        chain["transport_socket"] = filled(template, {"secrets": settings.envoy_secrets})


def guard_cluster(cluster: Document, role: str, settings: ControlSettings) -> None:
    """Use mutual TLS towards a cluster's pods."""
    if settings.envoy_secrets is not None:
        cluster["transport_socket"] = upstream_tls(str(settings.envoy_secrets), role)


def upstream_tls(secrets: str, role: str) -> Document:
    """Return the transport socket for mutual TLS from Envoy to one of our processes.

    Args:
        secrets: folder, on Envoy's machine, of the secret files that refer to its certificates.
        role: role of the process, for example "candidate".
    """
    return filled("upstream_tls", {"secrets": secrets, "role": role})


def stream_refusals() -> Document:
    """Return the headers of the response to too many streams, as values for templates."""
    return {
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
