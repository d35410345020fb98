"""Adds to the edge, inner listeners and clusters who may come in: certificates, tokens, rates."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from server.control.settings import ControlSettings
from server.control.templates import filled

Document = dict[str, Any]

_RETRY_SECONDS = 1
"""After so long a caller's whole allowance of a second is there again."""
_TOKENS = "envoy.filters.http.jwt_authn"
_OPEN = "health"
"""The route that needs no token."""


def guard_edge(listener: Document, settings: ControlSettings, jwks: str) -> None:
    """Has the edge's listener ask for what the settings demand; unchanged where that is nothing.

    Args:
        listener: the document of `edge_listener.yaml`.
        settings: which of TLS, tokens and rate limits there are.
        jwks: the keys of those who sign tokens.
    """
    [chain] = listener["filter_chains"]
    if settings.envoy_secrets is not None:
        chain["transport_socket"] = filled("edge_tls", {"secrets": settings.envoy_secrets})
    manager = chain["filters"][0]["typed_config"]
    names = [each["name"] for each in manager["http_filters"]]
    # After gRPC-Web has been made gRPC, so that refusals are told in the caller's own way; and
    # before anything else is done for a caller that nobody knows.
    first = names.index("envoy.filters.http.grpc_web") + 1
    last = [manager["http_filters"].pop()]
    if settings.rate_limit:
        last.insert(0, _rate_limit(settings))
    if settings.jwks:
        last.insert(-1, filled("edge_scopes", {}))
        values = {
            "issuer": settings.jwt_issuer,
            "audience": settings.jwt_audience,
            "jwks": jwks,
        }
        manager["http_filters"].insert(first, filled("edge_tokens", values))
    manager["http_filters"] += last
    if settings.jwks or settings.rate_limit:
        replies = filled("edge_replies", {"too_often": _too_often(settings)})["replies"]
        manager["local_reply_config"]["mappers"][:0] = replies


def guard_edge_routes(routes: Document, settings: ControlSettings) -> None:
    """Has the edge's routes say whom a call is counted for, and pages see when to ask again."""
    for host in routes["virtual_hosts"]:
        if settings.rate_limit:
            for route in host["routes"]:
                if "route" in route:
                    known = settings.jwks and route["name"] != _OPEN
                    action = _caller() if known else _ADDRESS
                    route["route"]["rate_limits"] = [{"actions": [action]}]
        if settings.rate_limit:
            policy = host["typed_per_filter_config"]["envoy.filters.http.cors"]
            policy["expose_headers"] += ", retry-after"


def guard_inner(listener: Document, settings: ControlSettings) -> None:
    """Has an inner listener take only processes of ours."""
    if settings.envoy_secrets is not None:
        [chain] = listener["filter_chains"]
        chain["transport_socket"] = filled("inner_tls", {"secrets": settings.envoy_secrets})


def guard_cluster(cluster: Document, role: str, settings: ControlSettings) -> None:
    """Has a cluster's pods shown a certificate, and asked for theirs."""
    if settings.envoy_secrets is not None:
        cluster["transport_socket"] = upstream_tls(str(settings.envoy_secrets), role)


def upstream_tls(secrets: str, role: str) -> Document:
    """How Envoy speaks with a process of ours.

    Args:
        secrets: the folder, on Envoy's machine, of the files that say where certificates are.
        role: what the process is, "candidate" say.
    """
    return filled("upstream_tls", {"secrets": secrets, "role": role})


_ADDRESS: Document = {"remote_address": {}}


def _caller() -> Document:
    return {
        "metadata": {
            "descriptor_key": "caller",
            "metadata_key": {"key": _TOKENS, "path": [{"key": "claims"}, {"key": "sub"}]},
            "default_value": "nobody",  # a token without a subject: they all share one bucket
        }
    }


def _rate_limit(settings: ControlSettings) -> Document:
    status = status_pb2.Status(code=8, message=_too_often(settings))
    delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=_RETRY_SECONDS))
    detail = any_pb2.Any()
    detail.Pack(delay)
    status.details.append(detail)
    values = {
        "rate": settings.rate_limit,
        "burst": settings.rate_burst or settings.rate_limit,
        # As gRPC has binary metadata: without the padding.
        "details": base64.b64encode(status.SerializeToString()).decode().rstrip("="),
    }
    return filled("edge_rate_limit", values)


def _too_often(settings: ControlSettings) -> str:
    return (
        f"more calls than the {settings.rate_limit} a second that one caller may make; "
        f"wait {_RETRY_SECONDS} s"
    )
