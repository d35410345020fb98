"""Access control of the edge, inner listeners and clusters: TLS, tokens and rate limits."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from server.control.settings import ControlSettings
from server.control.templates import filled

Document = dict[str, Any]

_RETRY_SECONDS = 1
"""Seconds after which a caller's token bucket has refilled."""
_TOKENS = "envoy.filters.http.jwt_authn"
_RATE_LIMIT = "envoy.filters.http.local_ratelimit"
_WATCH_SECONDS = 30
"""Seconds after which an address may open another health watch; see `edge_routes.yaml`."""
_TOO_MANY = "more health checks, watches or reflection streams than are allowed at a time"


def guard_edge(listener: Document, settings: ControlSettings, jwks: str) -> None:
    """Add TLS, tokens and rate limits to the edge's listener, with error messages for callers.

    Args:
        listener: the document of `edge_listener.yaml`.
        settings: which of TLS, tokens and rate limits are enabled.
        jwks: the public keys that tokens are verified with.
    """
    [chain] = listener["filter_chains"]
    if settings.envoy_secrets is not None:
        chain["transport_socket"] = filled("edge_tls", {"secrets": settings.envoy_secrets})
    manager = chain["filters"][0]["typed_config"]
    filters = manager["http_filters"]
    names = [each["name"] for each in filters]
    # After the gRPC-Web filter, so that errors reach callers in their own protocol, and before
    # any other work for an unauthenticated caller.
    first = names.index("envoy.filters.http.grpc_web") + 1
    if settings.rate_limit:
        filters[names.index(_RATE_LIMIT)] = _rate_limit(settings)
    if settings.jwks:
        filters.insert(-1, filled("edge_scopes", {}))
        values = {
            "issuer": settings.jwt_issuer,
            "audience": settings.jwt_audience,
            "jwks": jwks,
        }
        filters.insert(first, filled("edge_tokens", values))
    words = {"too_often": _too_often(settings), "too_many": _TOO_MANY}
    manager["local_reply_config"]["mappers"][:0] = filled("edge_replies", words)["replies"]


def guard_edge_routes(routes: Document, settings: ControlSettings) -> None:
    """Add rate limit descriptors to the edge's routes, and expose `retry-after` to web pages.

    A route with its own limit is unchanged.
    """
    for host in routes["virtual_hosts"]:
        if settings.rate_limit:
            for route in host["routes"]:
                own = _RATE_LIMIT in route.get("typed_per_filter_config", {})
                if "route" in route and not own:
                    action = _caller() if settings.jwks else _ADDRESS
                    route["route"]["rate_limits"] = [{"actions": [action]}]
        if settings.rate_limit:
            policy = host["typed_per_filter_config"]["envoy.filters.http.cors"]
            policy["expose_headers"] += ", retry-after"


def guard_inner(listener: Document, settings: ControlSettings) -> None:
    """Restrict an inner listener to our own processes by mutual TLS."""
    if settings.envoy_secrets is not None:
        [chain] = listener["filter_chains"]
        chain["transport_socket"] = filled("inner_tls", {"secrets": settings.envoy_secrets})


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


# An IPv6 subscriber usually has a whole /64.
_ADDRESS: Document = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}


def _caller() -> Document:
    return {
        "metadata": {
            "descriptor_key": "caller",
            "metadata_key": {"key": _TOKENS, "path": [{"key": "claims"}, {"key": "sub"}]},
            "default_value": "nobody",  # tokens without a subject share one bucket
        }
    }


def stream_refusals() -> Document:
    """Return the headers of the response to too many streams, as values for templates."""
    return {
        "later": _refusal(_TOO_MANY, _RETRY_SECONDS),
        "much_later": _refusal(_TOO_MANY, _WATCH_SECONDS),
    }


def _rate_limit(settings: ControlSettings) -> Document:
    values = {
        "rate": settings.rate_limit,
        "burst": settings.rate_burst or settings.rate_limit,
        "later": _refusal(_too_often(settings), _RETRY_SECONDS),
    }
    return filled("edge_rate_limit", values)


def _refusal(message: str, seconds: int) -> list[Document]:
    """Return the headers with the retry delay, for REST and for gRPC callers."""
    status = status_pb2.Status(code=8, message=message)
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds)))
    status.details.append(detail)
    # Unpadded, as gRPC encodes binary metadata.
    details = base64.b64encode(status.SerializeToString()).decode().rstrip("=")
    return [
        {"header": {"key": key, "value": text}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, text in (("retry-after", str(seconds)), ("grpc-status-details-bin", details))
    ]


def _too_often(settings: ControlSettings) -> str:
    return (
        f"more calls than the {settings.rate_limit} a second that one caller may make; "
        f"wait {_RETRY_SECONDS} s"
    )
